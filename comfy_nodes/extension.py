"""What the host gets: seven nodes, a folder of presets, a route for the strip."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import folders, routes
from .nodes.apply_schedule import ApplySchedule
from .nodes.auto import AutoSchedule
from .nodes.compare import Compare
from .nodes.load_schedule import LoadSchedule
from .nodes.sampler import Sampler
from .nodes.schedule_sigmas import ScheduleSigmas
from .nodes.search import Search


class Flexiffusion(ComfyExtension):
    """The pack, as the host asks for it."""

    async def on_load(self) -> None:
        self._prepare()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        self._prepare()
        return [Sampler, ApplySchedule, LoadSchedule, ScheduleSigmas, Compare, AutoSchedule, Search]

    @staticmethod
    def _prepare() -> None:
        """Safe to call twice: hosts before 0.3.50 have no `on_load`, others call it first."""
        folders.register()
        routes.register()
