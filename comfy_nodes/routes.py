"""Routes for the front end: what the strip of a schedule shows, which presets fit a model file, and a model's file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import folder_paths

from ..flexiffusion.errors import ScheduleError
from ..flexiffusion.headers import family_of_file
from . import folders
from .inline import AUTO, chosen, strip

STRIP = "/flexiffusion/strip"
PRESETS = "/flexiffusion/presets"
CHECKPOINT = "/flexiffusion/checkpoint"
_MODELS = ("checkpoints", "diffusion_models")


def register() -> None:
    """Adds the routes to the running server; once, and not where there is no server."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None or any(getattr(route, "path", None) == STRIP for route in server.routes):
        return
    server.routes.post(STRIP)(_strip)
    server.routes.post(PRESETS)(_presets)
    server.routes.post(CHECKPOINT)(_checkpoint)


async def _strip(request: Any) -> Any:
    """{"preset": name, "json": text, "speedup": number} -> the strip; {"error": what is wrong with it}, status 400."""
    from aiohttp import web

    try:
        asked = await request.json()
        schedule = chosen(
            str(asked.get("preset") or ""), str(asked.get("json") or ""), float(asked.get("speedup") or 2.0)
        )
        return web.json_response(strip(schedule))
    except (ScheduleError, ValueError, TypeError, AttributeError) as error:
        return web.json_response({"error": str(error)}, status=400)


async def _presets(request: Any) -> Any:
    """{"model": a file's name as loaders have it} -> {"family": name or null, "presets": those that fit, or all}."""
    from aiohttp import web

    try:
        model = str((await request.json()).get("model") or "")
    except (ValueError, AttributeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    # files are read: not on the thread that serves everybody
    return web.json_response(await asyncio.to_thread(fitting, model))


async def _checkpoint(request: Any) -> Any:
    """{"family": name} -> {"checkpoint": the first file of that family, as loaders have it, or null}."""
    from aiohttp import web

    try:
        family = str((await request.json()).get("family") or "")
    except (ValueError, AttributeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"checkpoint": await asyncio.to_thread(checkpoint_of, family)})


def checkpoint_of(family: str) -> str | None:
    """The first checkpoint of the host that is of this family, by its header; None: there is none."""
    kind = _MODELS[0]
    for name in folder_paths.get_filename_list(kind):
        path = folder_paths.get_full_path(kind, name)
        if path is not None and family_of_file(Path(path)) == family:
            return str(name)
    return None


def fitting(model: str) -> dict[str, Any]:
    """The family of a model file of the host, and the names of the presets for it; all where it is not known."""
    paths = (folder_paths.get_full_path(kind, model) for kind in _MODELS) if model else ()
    path = next((path for path in paths if path is not None), None)
    family = None if path is None else family_of_file(Path(path))
    names = [name for name, preset in folders.readable() if preset.schedule.model.family == family]
    return {"family": family, "presets": [AUTO, *(names or folders.names())]}
