"""One route for the front end: what the strip of a schedule shows."""

from __future__ import annotations

from typing import Any

from ..flexiffusion.errors import ScheduleError
from .inline import chosen, strip

STRIP = "/flexiffusion/strip"


def register() -> None:
    """Adds the route to the running server; once, and not where there is no server."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None or any(getattr(route, "path", None) == STRIP for route in server.routes):
        return
    server.routes.post(STRIP)(_strip)


async def _strip(request: Any) -> Any:
    """{"preset": name, "json": text} -> the strip, or {"error": what is wrong with it} with status 400."""
    from aiohttp import web

    try:
        asked = await request.json()
        return web.json_response(strip(chosen(str(asked.get("preset") or ""), str(asked.get("json") or ""))))
    except (ScheduleError, ValueError, AttributeError) as error:
        return web.json_response({"error": str(error)}, status=400)
