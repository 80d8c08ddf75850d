"""Reports of samplings that end long after the node that asked for them: the front end shows them in that node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..flexiffusion.host import SamplingReport
from ..flexiffusion.schedule import Schedule
from .apply import report_text
from .auto import Auto

EVENT = "flexiffusion.report"


def listener(node: Any, schedule: Schedule | Auto) -> Callable[[SamplingReport], None]:
    """Shows the report of every sampling in a node; node: its class, while it is executed."""
    identity = getattr(getattr(node, "hidden", None), "unique_id", None)
    return lambda report: show(identity, report_text(schedule, [report]))


def show(node: str | None, text: str) -> None:
    """Sends a report to every open front end; nothing where there is no server, or the node is not known."""
    from server import PromptServer

    server: Any = getattr(PromptServer, "instance", None)
    if node is not None and server is not None:
        server.send_sync(EVENT, {"node": node, "text": text})
