"""The plain picture beside the scheduled one: the whole generation again without the schedule, on the same seeds."""

from __future__ import annotations

import copy
import time
from typing import Any

from modules import devices, images, processing, sd_samplers_common, shared

from .generation import ATTRIBUTE
from .search import Result

_PLAIN = f"{ATTRIBUTE}_plain"
_STOPPED = f"{ATTRIBUTE}_stopped"


def make_plain(p: Any, without: list[Any]) -> None:
    """Before a generation: makes the same one with the script arguments `without`, and keeps it on `p`.

    It runs on a copy, as the host's own X/Y/Z plot does, with the seed fixed for both.
    """
    p.seed, p.subseed = processing.get_fixed_seed(p.seed), processing.get_fixed_seed(p.subseed)
    plain = copy.copy(p)
    plain.script_args = without
    setattr(plain, f"{ATTRIBUTE}_axis", {"enabled": False})
    plain.extra_generation_params = dict(p.extra_generation_params)
    plain.override_settings = dict(p.override_settings)
    plain.comments = {}
    plain.do_not_save_grid = True
    setattr(p, _STOPPED, False)
    setattr(plain, _STOPPED, False)
    if shared.state.job_count == -1:
        shared.state.job_count = 2 * p.n_iter
    started = time.perf_counter()
    made = processing.process_images(plain)
    setattr(p, _PLAIN, (made, time.perf_counter() - started, plain))
    setattr(p, f"{_PLAIN}_started", time.perf_counter())


def note_stop(p: Any) -> None:
    """After every batch: whether the user has stopped it. The host forgets a skip when the next batch begins."""
    if _stopped_now():
        setattr(p, _STOPPED, True)


def add_plain(p: Any, processed: Any, name: str) -> None:
    """After the generation: adds one sheet with both and the seconds of each, then the plain pictures.

    After an interrupt or a skip there is nothing to compare: the plain pictures come, finished or not, and no figures.
    """
    kept = getattr(p, _PLAIN, None)
    if kept is None:
        return
    delattr(p, _PLAIN)
    plain, seconds, plain_p = kept
    if _stopped_now() or getattr(p, _STOPPED, False) or getattr(plain_p, _STOPPED, False):
        if not processed.images:
            processed.infotexts.clear()  # the host puts one there that stands for no picture
        for picture, text in _pictures(plain):
            processed.images.append(picture)
            processed.infotexts.append(text)
        processed.comments += "Flexiffusion: stopped before both pictures were made, so they are not compared\n"
        return
    own = time.perf_counter() - getattr(p, f"{_PLAIN}_started")
    pairs = list(zip(_pictures(plain), _pictures(processed), strict=False))
    if not pairs:
        return
    titles = [f"plain, {seconds:.1f} s", f"{name}, {own:.1f} s ({seconds / own:.2f}x)"]
    _add_sheet(processed, pairs, titles)
    processed.comments += f"Flexiffusion: {'; '.join(titles)} (whole generation)\n"


def add_found(processed: Any, result: Result) -> None:
    """After a search: adds one sheet with the plain picture and the found schedule's, then the plain picture."""
    for found in _pictures(processed)[:1]:
        plain = sd_samplers_common.sample_to_image(result.plain.to(devices.device), 0, 0)  # 0: by the full autoencoder
        (best,) = result.found.schedules
        titles = [f"plain, {result.steps} steps", f"{result.name}, as much work as {best.cost:.1f} steps"]
        _add_sheet(processed, [((plain, found[1]), found)], titles)


def _add_sheet(processed: Any, pairs: list[tuple[tuple[Any, str], tuple[Any, str]]], titles: list[str]) -> None:
    """pairs: of each picture the plain one and the other, with their texts."""
    first = pairs[0][0][0]
    sheet = images.image_grid([picture for pair in pairs for picture, _ in pair], rows=len(pairs))
    sheet = images.draw_grid_annotations(
        sheet,
        first.width,
        first.height,
        [[images.GridAnnotation(title)] for title in titles],
        [[images.GridAnnotation()] for _ in pairs],
    )
    processed.images.append(sheet)
    processed.infotexts.append(f"{processed.infotexts[processed.index_of_first_image]}\nAbove: {'; '.join(titles)}")
    for (picture, text), _ in pairs:
        processed.images.append(picture)
        processed.infotexts.append(text)


def _stopped_now() -> bool:
    return any(getattr(shared.state, flag, False) for flag in ("interrupted", "skipped", "stopping_generation"))


def _pictures(processed: Any) -> list[tuple[Any, str]]:
    """The single pictures with their texts, without the grid."""
    first = processed.index_of_first_image
    return list(zip(processed.images[first:], processed.infotexts[first:], strict=False))
