"""What the host is asked to call. It forgets all of it when the UI is reloaded, so the door registers each time."""

from __future__ import annotations

import logging
from typing import Any

from modules import script_callbacks

from . import sampling, xyz
from .script import follow_checkpoint


def register() -> None:
    """Registers with the host."""
    log = logging.getLogger("flexiffusion")
    if not log.isEnabledFor(logging.WARNING):  # Forge Neo shows errors alone, and warnings are all we have to say
        log.setLevel(logging.WARNING)
    script_callbacks.on_before_ui(xyz.add_axes)
    script_callbacks.on_after_component(lambda component, **more: follow_checkpoint(component, more.get("elem_id")))
    # the moment when a refiner has been loaded and no network call has been made yet
    script_callbacks.on_cfg_denoiser(_before_evaluation)


def _before_evaluation(params: Any) -> None:
    sampling.begin_evaluation(getattr(params, "denoiser", None))
