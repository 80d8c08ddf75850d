"""The extension of AUTOMATIC1111 and Forge: the core in their generation loop, and its controls in their UI.

One script for both. The host's modules are imported by `script`, `ui`, `callbacks`, `compare`, `xyz` and `host` only;
the rest, which is where the work is done, sees the few host objects that it needs as arguments.
"""
