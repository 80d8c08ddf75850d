"""A schedule that travels in the text of a PNG picture: written by us, by ComfyUI's workflow, or by the WebUI."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from flexiffusion import codec
from flexiffusion.errors import ScheduleError
from flexiffusion.schedule import Schedule

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 32 << 20

_COMFY_NODE = "FlexiffusionLoadSchedule"
_WEBUI = re.compile(r'Flexi schedule: ("(?:[^"\\]|\\.)+"|[^,\n]+)')  # infotext; quoted where it holds a comma
_REMEDY = "Ask for the schedule file, or for a picture made with the schedule's text"


def schedule_in(data: bytes, place: str) -> Schedule:
    """The schedule that a picture carries. Raises ScheduleError; pixels are never decoded."""
    texts = _texts(data, place)
    if codec.PNG_KEY in texts:
        return codec.loads(texts[codec.PNG_KEY].encode("utf-8", "surrogatepass"), place)
    named = None
    for found in (_in_workflow(texts.get("prompt", "")), _in_infotext(texts.get("parameters", ""))):
        if found is not None and found.lstrip().startswith("{"):
            return codec.loads(found.encode("utf-8", "surrogatepass"), place)
        named = found or named
    if named is not None:
        raise ScheduleError(place, f"the picture names the schedule {named[:100]!r} but does not hold it", _REMEDY)
    raise ScheduleError(place, "the picture carries no schedule", _REMEDY)


def _texts(data: bytes, place: str) -> dict[str, str]:
    """The text chunks before the pixels, where every program writes them."""
    from PIL import Image

    if len(data) > MAX_BYTES:
        raise ScheduleError(place, f"the picture has more than {MAX_BYTES >> 20} MiB", _REMEDY)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
    except Exception as error:  # a hostile picture makes Pillow raise a dozen kinds
        raise ScheduleError(place, f"the picture cannot be read ({type(error).__name__})", _REMEDY) from None


def _in_workflow(prompt: str) -> str | None:
    """ComfyUI: the text of a Load Schedule node, or the name of its file."""
    try:
        nodes: Any = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    if not isinstance(nodes, dict):
        return None
    for node in nodes.values():
        if isinstance(node, dict) and node.get("class_type") == _COMFY_NODE and isinstance(node.get("inputs"), dict):
            for key in ("json", "preset"):
                value = node["inputs"].get(key)
                if isinstance(value, str) and value.strip():
                    return value
    return None


def _in_infotext(parameters: str) -> str | None:
    """AUTOMATIC1111 and Forge: `Flexi schedule: NAME`, or the file's text in one line, as a JSON text."""
    found = _WEBUI.search(parameters)
    if found is None:
        return None
    value = found.group(1).strip()
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return None
