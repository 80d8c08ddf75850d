"""Pictures of schedules beside the teacher's, by the protocol that papers report: PSNR, SSIM, LPIPS, FID, CLIP score.

As in SADA (arXiv 2507.17135): one picture for each prompt of a list, the same noise for teacher and student, and the
Fréchet distance between the two sets of pictures. Beside each schedule stand fewer plain steps and the other rivals at
its cost. A batch is drawn, measured and forgotten, so any number of pictures fits; what is measured is kept after each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexiffusion.schedule import Schedule
from flexiffusion.search.paired import Estimate, estimate, finite
from flexiffusion.whole_file import whole_file
from flexsearch.errors import ConfigError
from flexsearch.metrics import likeness
from flexsearch.metrics.features import features_of
from flexsearch.metrics.relative_fid import frechet_distance
from flexsearch.models.checkpoint import stills
from flexsearch.models.identity import cache_folder
from flexsearch.report.rows import RowKind
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.final_table import Entry
from flexsearch.runs.from_file import entry_of, shared_settings
from flexsearch.runs.progress import Progress
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import HELD_OUT, ImageSet

KEPT = "quality.safetensors"  # in the folder that is given to go on from


@dataclass(frozen=True)
class QualityRow:
    """One schedule's pictures beside the teacher's. `means` and their 95 % intervals by the metric's name; `fid` to the
    teacher's pictures. Infinite where a picture was not finite; the teacher's row has no means but the CLIP score."""

    label: str
    kind: RowKind
    speedup_macs: float
    means: Mapping[str, Estimate]
    fid: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "kind": self.kind,
            "speedup_macs": self.speedup_macs,
            "fid": None if self.fid is None else finite(self.fid),
            **{name: found.to_dict() for name, found in self.means.items()},
        }


@dataclass(frozen=True)
class Quality:
    rows: tuple[QualityRow, ...]
    count: int
    left_out: tuple[str, ...]  # why a metric is not there, a sentence each


def quality(
    schedules: Sequence[tuple[str, Schedule]],
    base: Settings,
    prompts: Sequence[str],
    count: int,
    progress: Progress,
    *,
    folder: Path | None = None,
    clip: Path | None = None,
) -> Quality:
    """Draw `count` pictures with the teacher, each schedule and its rivals, and compare them.

    prompts: picture i shows prompt i, going round; of models without prompts, none
    folder:  where what is measured is kept; a call with the same arguments goes on from there
    clip:    a folder with a CLIP model, for the CLIP score
    Raises ConfigError for schedules of different samplings, and ModelMismatch for those of another model.
    """
    experiment = Experiment(shared_settings(schedules, base), cache_folder() / "references")
    progress.say(f"model: {experiment.described()}")
    device = experiment.model.device
    measures, left_out = _measures(device)
    score = None if clip is None else likeness.clip_score(clip, device)  # refused before rivals are chosen
    entries = _entries(schedules, experiment, progress)
    kept = _Kept(folder, _key(experiment, entries, prompts, clip))
    with progress.stage("pictures", count, "pictures", done=kept.done) as at:
        while kept.done < count:
            first, size = kept.done, min(experiment.batch, count - kept.done)
            kept.add(size, _measured(experiment, entries, prompts, first, size, measures, score))
            at.advance(size)
    rows = _rows(entries, kept, [*measures, *["clip"] * (score is not None)])
    return Quality(tuple(rows), kept.done, left_out)


def read_captions(path: Path) -> tuple[str, ...]:
    """The first caption of each image of a COCO captions file, by the images' ids. Raises ConfigError."""
    place = f"--prompts coco:{path}"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        first: dict[int, tuple[int, str]] = {}
        for item in document["annotations"]:
            found = (int(item["id"]), str(item["caption"]).strip())
            image = int(item["image_id"])
            first[image] = min(first.get(image, found), found)
    except OSError as error:
        raise ConfigError(place, f"it cannot be read ({error})", "Give captions_val2017.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(place, f"it is no COCO captions file ({error})", "Give captions_val2017.json") from error
    return tuple(first[image][1] for image in sorted(first))


def _entries(schedules: Sequence[tuple[str, Schedule]], experiment: Experiment, progress: Progress) -> dict[str, Entry]:
    """The teacher, then each schedule and what can be had at its cost; a label each."""
    known = final_table.Known(experiment)
    found = [final_table.teacher(experiment)]
    for _, schedule in schedules:
        entry = entry_of(schedule.name, schedule, experiment, progress)
        cost = entry.candidate.cost(experiment.macs)
        found += [entry, *final_table.rivals(experiment, experiment.settings.steps / cost, cost, known)]
    named: dict[str, Entry] = {}
    for entry in found:  # rivals at one cost that run the same are drawn once
        if all(entry.key != other.key for other in named.values()):
            label = entry.label if entry.label not in named else f"{entry.label}, {entry.kind}"
            named[label] = entry
    return named


def _measures(device: torch.device) -> tuple[dict[str, likeness.Likeness], tuple[str, ...]]:
    measures: dict[str, likeness.Likeness] = {"psnr": likeness.psnr, "ssim": likeness.ssim}
    try:
        return {**measures, "lpips": likeness.lpips(device)}, ()
    except ConfigError as error:
        return measures, (f"LPIPS is left out: {error.problem}. {error.remedy}",)


Measured = dict[str, Tensor]  # by "label/metric" (n,) and "label/features" (n, d)


def _measured(
    experiment: Experiment,
    entries: Mapping[str, Entry],
    prompts: Sequence[str],
    first: int,
    size: int,
    measures: Mapping[str, likeness.Likeness],
    score: Callable[[Tensor, Sequence[str]], list[float]] | None,
) -> Measured:
    shown = [prompts[(first + i) % len(prompts)] for i in range(size)] if prompts else []
    images = ImageSet(experiment.settings.seed, HELD_OUT + first, size, tuple(shown))
    evaluator = experiment.evaluator_without_references(images)
    teacher: Tensor | None = None
    found: Measured = {}
    for label, entry in entries.items():
        outcome = final_table.evaluate(evaluator, entry)
        macs = final_table.work_of(evaluator, entry, outcome).macs
        pictures = stills(outcome.images).float()
        finite_ones = pictures.isfinite().flatten(1).all(1).tolist()
        shown_ones = pictures.nan_to_num(0.0).clamp(0, 1)
        latents = outcome.trajectory.latents
        found[f"{label}/features"] = features_of(experiment.features, latents, pictures, experiment.batch)
        found[f"{label}/macs"] = torch.full((size,), macs, dtype=torch.float64)
        if teacher is None:
            teacher = shown_ones
        else:
            for name, compared in measures.items():
                found[f"{label}/{name}"] = _or_nan(compared(shown_ones, teacher), finite_ones)
        if score is not None and shown:
            found[f"{label}/clip"] = _or_nan(score(shown_ones, shown), finite_ones)
    return found


def _or_nan(values: Sequence[float], finite_ones: Sequence[bool]) -> Tensor:
    """A picture that is not finite is like no other."""
    kept = [value if good else math.nan for value, good in zip(values, finite_ones, strict=True)]
    return torch.tensor(kept, dtype=torch.float64)


def _rows(entries: Mapping[str, Entry], kept: _Kept, names: Sequence[str]) -> list[QualityRow]:
    teacher, rows = next(iter(entries)), []
    for label, entry in entries.items():
        of = {
            name.removeprefix(f"{label}/"): kept.tensors[name] for name in kept.tensors if name.startswith(f"{label}/")
        }
        means = {name: estimate(of[name].nan_to_num(math.inf).numpy()) for name in names if name in of}
        fid = None if label == teacher else frechet_distance(of["features"], kept.tensors[f"{teacher}/features"])
        speedup = float(kept.tensors[f"{teacher}/macs"].mean() / of["macs"].mean())
        rows.append(QualityRow(label, entry.kind, speedup, means, fid))
    return rows


def _key(experiment: Experiment, entries: Mapping[str, Entry], prompts: Sequence[str], clip: Path | None) -> str:
    """Of all that determines the numbers but how many pictures there are: a larger count goes on from a smaller."""
    model = experiment.model
    determines = {
        "model": [model.sha256, model.image_size, str(model.dtype), model.noise_config],
        "sampling": asdict(experiment.sampling),
        "entries": {label: repr(entry.key) for label, entry in entries.items()},
        "prompts": list(prompts),
        "seed": experiment.settings.seed,
        "features": experiment.features_name,
        "clip": None if clip is None else str(clip),
    }
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()


class _Kept:
    """What is measured so far, on disk too where a folder is given. Raises ConfigError where that is another call's."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self.path = None if folder is None else folder / KEPT
        self.key = key
        self.tensors: Measured = {}
        self.done = 0
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def add(self, size: int, found: Measured) -> None:
        for name, values in found.items():
            self.tensors[name] = torch.cat([self.tensors[name], values]) if name in self.tensors else values
        self.done += size
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(self.path) as draft:
                    save_file(self.tensors, draft, {"key": self.key, "done": str(self.done)})
            except OSError as error:
                place = f"--out {self.path.parent}"
                raise ConfigError(place, f"it cannot be written ({error})", "Give another folder") from error

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                known = file.metadata()
                same = known.get("key") == self.key
                self.tensors = {name: file.get_tensor(name) for name in file.keys()} if same else {}  # noqa: SIM118
                self.done = int(known["done"]) if same else 0
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"--out {path.parent}", f"{KEPT} cannot be read ({error})", "Give another folder"
            ) from error
        if not same:
            raise ConfigError(
                f"--out {path.parent}", "it holds what other schedules, prompts or settings gave", "Give another folder"
            )


def with_steps(schedules: Sequence[tuple[str, Schedule]], steps: int | None) -> list[tuple[str, Schedule]]:
    """The schedules for a teacher of other steps than they were made with, where `steps` says so."""
    if steps is None:
        return list(schedules)
    return [(name, replace(item, sampling=replace(item.sampling, steps=steps))) for name, item in schedules]
