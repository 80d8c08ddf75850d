"""ComfyUI's door: the host loads this folder as a package, under whatever name the folder has."""

from .comfy_nodes import WEB_DIRECTORY, comfy_entrypoint

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
