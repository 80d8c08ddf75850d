"""Reports of samplings that end long after the node that asked for them: the front end shows them in that node."""

from __future__ import annotations

from typing import Any

EVENT = "flexiffusion.report"


def show(node: str | None, text: str) -> None:
    """Sends a report to every open front end; nothing where there is no server, or the node is not known."""
    from server import PromptServer

    server: Any = getattr(PromptServer, "instance", None)
    if node is not None and server is not None:
        server.send_sync(EVENT, {"node": node, "text": text})
