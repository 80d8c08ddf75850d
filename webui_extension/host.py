"""What is asked of the host's globals: the loaded model, the folders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from modules import paths, sd_models, sd_samplers_common, shared

from flexiffusion import presets
from flexiffusion.families import FAMILIES
from flexiffusion.fingerprint import is_same_checkpoint
from flexiffusion.fit import UNKNOWN
from flexiffusion.headers import family_of_file
from flexiffusion.host import why_not_cut
from flexiffusion.metadata import ModelInfo
from flexiffusion.search.in_host import FOLDER

from .library import Library
from .network import Network, network_of
from .search import Surroundings


def network() -> Network | None:
    """The network that is loaded. While a picture is made this is what it is made with, refiner and all."""
    return network_of(shared.sd_model)


def family() -> str | None:
    """The loaded model's family; None: not known, or nothing is loaded yet. Loads nothing, unlike `shared.sd_model`."""
    loaded = network_of(getattr(getattr(sd_models, "model_data", None), "sd_model", None))
    return loaded.family if loaded is not None else None


def checkpoint_family(title: str | None = None) -> str | None:
    """The family of the checkpoint that is chosen, or of the one with this title, loaded or not; None: not known."""
    if title is None:
        title = getattr(shared.opts, "sd_model_checkpoint", None)
    info = sd_models.get_closet_checkpoint_match(title) if title else None
    loaded = getattr(getattr(sd_models, "model_data", None), "sd_model", None)
    if info is None or getattr(loaded, "sd_checkpoint_info", None) == info:
        return family()
    path = Path(info.filename)
    return family_of_file(path) if path.suffix.lower() == ".safetensors" else None


def model(title: str | None = None) -> tuple[ModelInfo, Callable[[Sequence[float]], bool]]:
    """As much as is known of the chosen checkpoint's network, and whether it has a fingerprint, which only what is
    loaded can tell."""
    name = checkpoint_family(title)
    known = ModelInfo(name or UNKNOWN, FAMILIES[name].branches if name in FAMILIES else 12)
    info = sd_models.get_closet_checkpoint_match(title) if title else None
    loaded = getattr(getattr(sd_models, "model_data", None), "sd_model", None)
    found = network_of(loaded)
    if found is None or (info is not None and getattr(loaded, "sd_checkpoint_info", None) != info):
        return known, lambda fingerprint: False
    return known, functools.partial(is_same_checkpoint, found.unet)


def unsupported(title: str | None = None) -> str | None:
    """Why the model that is loaded cannot be accelerated; None: it can, or another one is chosen, or none is loaded."""
    loaded = getattr(getattr(sd_models, "model_data", None), "sd_model", None)
    info = sd_models.get_closet_checkpoint_match(title) if title else None
    found = network_of(loaded)
    if found is None or (info is not None and getattr(loaded, "sd_checkpoint_info", None) != info):
        return None
    try:
        why = why_not_cut(found.unet)
    except SystemError:
        # Where another thread walks through all objects (reForge's does while it loads a checkpoint: gc.get_objects),
        # CPython fails to build a tuple of a generator. The accordion asks again when something is chosen there.
        return None
    return f"{type(found.unet).__name__} has no blocks that a step could leave out" if why else None


def progress(steps: int) -> None:
    """Moves the console's bar over steps at which there was nothing to do."""
    for _ in range(steps):
        shared.total_tqdm.update()


class SearchProgress:
    """Shows on the host's page how far a search is, and its time left.

    The page takes both from the number of jobs that are done; the step of the sampling stays what ControlNet and others
    take it for.
    """

    JOBS = 1000

    def __enter__(self) -> SearchProgress:
        state = shared.state
        self._before = {name: getattr(state, name) for name in ("job_count", "job_no", "sampling_step", "textinfo")}
        state.job_count, state.job_no = self.JOBS, 0
        return self

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            setattr(shared.state, name, value)

    def step(self, index: int) -> None:
        shared.state.sampling_step = index

    def told(self, part: float, text: str) -> None:
        shared.state.job_no, shared.state.textinfo = min(self.JOBS - 1, int(self.JOBS * part)), text


def own_folder() -> Path:
    """Where the WebUI's user keeps schedules; it follows --data-dir and --models-dir. A search makes it."""
    return Path(paths.models_path) / "flexiffusion"


# The user's own folders also where they are not there yet: `flexsearch presets add` may make them while we run.
library = Library((presets.bundled_folder(), *presets.own_folders(), own_folder(), own_folder() / FOLDER))
surroundings = Surroundings(
    network, own_folder() / FOLDER, sd_samplers_common.InterruptedException, SearchProgress, library.refresh
)
