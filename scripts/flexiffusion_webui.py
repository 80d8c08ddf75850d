"""The door of AUTOMATIC1111 and Forge, which load every file of an extension's folder `scripts/`.

Everything is imported here and now: AUTOMATIC1111 has the extension on sys.path only while this file loads.
"""

from webui_extension.callbacks import register
from webui_extension.script import FlexiffusionScript

__all__ = ["FlexiffusionScript"]

register()
