"""The ComfyUI node pack: V3 nodes over the core. Importing it imports nothing of the host; `comfy_entrypoint` does."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The host's extension object (`comfy_api.latest.ComfyExtension`)."""
    from .extension import Flexiffusion

    return Flexiffusion()
