"""A whole search on a small pipeline with a transformer, from Python: found, gone on with, written, measured again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from cli.conftest import multiply_adds_counted_once, short_measurements  # noqa: F401

from flexiffusion import codec
from flexiffusion.search import macro_steps
from flexsearch.models.quiet import quiet_models
from flexsearch.runs.measure_files import measure_files
from flexsearch.runs.progress import Silent
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.search_run import Result, resume, start
from flexsearch.runs.settings import Settings
from tests.pipeline_folders import write_transformer_pipeline

PROMPTS = ("a red heart", "one yellow star", "a slice of pizza", "the face of a dog")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    quiet_models()
    folder = write_transformer_pipeline(tmp_path_factory.mktemp("pipeline") / "flux", "flux")
    return Settings(
        model=str(folder), device="cpu", size=(32, 32), guidance=3.0, steps=6, speedups=(2.0,), evaluations=12,
        images=4, held_out=2, prompts=PROMPTS, held_out_prompts=PROMPTS[:2],
    )  # fmt: skip


def found(result: Result) -> list[float]:
    return [row.errors["latent/teacher"].mean for row in result.rows if row.kind == "found"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # its two final tables count the calls of diffusers' caches: minutes on a busy machine
def test_placement_with_the_planner(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macro_steps, "LEVELS", 6)
    result = start(tmp_path / "run", settings, Silent())
    (path,) = result.schedules
    schedule = codec.read(path)
    document = json.loads(path.read_text())
    assert document["version"] == 2 and document["sampling"]["prediction"] == document["plan"]["noise"] == "flow"
    assert document["model"]["blocks"] == 6 and document["plan"]["steps"][0]["sigma"] == 1
    assert schedule.sampling.cfg == 3.0 and schedule.sampling.size == (32, 32)
    kinds = {row.kind for row in result.rows}
    assert kinds >= {"teacher", "found", "plain", "first_block_cache"}

    again = resume(RunFolder(tmp_path / "run"), settings, Silent())
    assert found(again) == found(result) and again.schedules[0].read_text() == path.read_text()

    measured = measure_files([(str(path), schedule)], settings, Silent())
    error = next(row for row in measured.rows if row.kind == "found").errors["latent/teacher"].mean
    assert error == pytest.approx(found(result)[0], rel=1e-5)


@pytest.mark.slow
def test_segments(settings: Settings, tmp_path: Path) -> None:
    few = dataclasses.replace(settings, method="flexiffusion", planner=False, evaluations=8)
    result = start(tmp_path / "run", few, Silent())
    (path,) = result.schedules
    schedule = codec.read(path)
    assert schedule.plan.noise == "flow" and schedule.model.blocks == 6
    assert {row.kind for row in result.rows} >= {"teacher", "found", "plain"}
