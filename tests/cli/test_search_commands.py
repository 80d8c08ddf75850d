"""run, resume, evaluate, compare and profile on the bundled model, as a user calls them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from model_folders import write_unconditional
from PIL import Image

from flexiffusion import codec
from flexiffusion.cost import CostTable
from flexiffusion.schedule import FULL, ModelInfo, Sampling, Schedule, Segment, SegmentsPlan, Step, StepsPlan
from flexiffusion.search import macro_steps
from flexiffusion.search.racing import SLACK
from flexiffusion.search.seeds import plain_seeds
from flexsearch.cli import exit_codes, main
from flexsearch.runs import experiment
from tools.make_random_checkpoint import write

RIVALS = {"plain", "uni_pc", "dpmpp_3m", "plain_fitted", "deepcache", "spectrum", "easycache"}  # that nobody searched
# The planner's tables take as long as all of this: TestPlan and test_search_run.py make small ones.
SMALL = ["--steps", "8", "--speedup", "2", "--images", "3", "--held-out", "3", "--no-planner", "--evaluations"]
EVALUATIONS = "24"


def tiny_schedule(plan: SegmentsPlan | StepsPlan) -> Schedule:
    sampling = Sampling("dpmpp_2m", "uniform", 6, 2.0, (32, 32), "epsilon")
    return Schedule("mine", ModelInfo("tiny-fashion", 9), sampling, plan)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert call("run", *SMALL, EVALUATIONS, "--out", str(folder), "--json").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


class TestRun:
    def test_writes_what_the_readme_lists(self, finished: Path) -> None:
        files = ("settings.json", "model.json", "study.db", "costs.json", "result.json", "front.png", "samples.png")
        for name in files:
            assert (finished / name).stat().st_size > 0
        assert (finished / "front.png").read_bytes().startswith(b"\x89PNG")
        assert list((finished / "references").glob("*.safetensors"))
        assert not list(finished.rglob("*.partial"))

    def test_a_report_draws_the_pictures_that_an_old_run_did_not_keep(self, finished: Path, tmp_path: Path) -> None:
        old = tmp_path / "old"
        shutil.copytree(finished, old)
        kept = {path.relative_to(old): path.read_bytes() for path in (old / "pictures").rglob("*.png")}
        assert len(kept) == 2 * 3, "teacher and one schedule, three images"
        shutil.rmtree(old / "pictures")
        done = call("report", str(old))
        assert done.exit_code == 0 and "sampling them again" in done.stderr
        for name, before in kept.items():
            images = [np.asarray(Image.open(source), float) for source in (old / name, io.BytesIO(before))]
            assert np.abs(images[0] - images[1]).max() <= 1, name

    def test_exports_a_schedule_that_says_what_was_measured(self, finished: Path) -> None:
        (path,) = (finished / "schedules").glob("*.json")
        schedule = codec.read(path)
        assert isinstance(schedule.plan, StepsPlan) and schedule.provenance.kind == "searched"
        assert schedule.model.family == "tiny-fashion" and schedule.model.branches == 9
        assert {metric.name for metric in schedule.metrics} == {"latent_mse", "relative_fid"}
        assert all(metric.n == 3 for metric in schedule.metrics)
        assert schedule.cost is not None and schedule.cost.speedup_macs is not None
        assert schedule.cost.speedup_macs >= 2 / (1 + SLACK)

    def test_the_table_has_every_rival(self, finished: Path) -> None:
        result = json.loads((finished / "result.json").read_text())
        assert [row["kind"] for row in result["rows"]].count("teacher") == 1
        kinds = {row["kind"] for row in result["rows"] if row["speedup_asked"] == 2}
        assert kinds == {"found", "placed_fitted", *RIVALS}
        for row in result["rows"]:
            assert row["relative_fid_n"] == 3 and row["seconds_per_image"] > 0
            assert set(row["errors"]) == {"latent/teacher", "latent/converged", "features/teacher"}
            assert row["speedup_asked"] is None or row["speedup_macs"] >= row["speedup_asked"] / (1 + SLACK) - 1e-9

    def test_found_is_no_worse_than_any_seed_on_the_search_images(self, finished: Path) -> None:
        front = json.loads((finished / "result.json").read_text())["front"]
        errors = [point["error"] for point in front]
        assert errors == sorted(errors, reverse=True)

    def test_the_teacher_has_no_error_to_itself(self, finished: Path) -> None:
        rows = json.loads((finished / "result.json").read_text())["rows"]
        teacher = next(row for row in rows if row["kind"] == "teacher")
        assert teacher["errors"]["latent/teacher"]["mean"] == 0 and teacher["speedup_measured"] == 1

    def test_the_effective_settings_are_kept(self, finished: Path) -> None:
        settings = json.loads((finished / "settings.json").read_text())
        assert settings["steps"] == 8 and settings["solver"] == "fitted" and settings["speedups"] == [2.0]
        assert settings["teacher_solver"] == "dpmpp_2m"

    def test_an_existing_run_is_not_overwritten(self, finished: Path) -> None:
        before = (finished / "result.json").read_bytes()
        result = call("run", *SMALL, EVALUATIONS, "--out", str(finished))
        assert result.exit_code == exit_codes.RUN_FOLDER and "resume" in result.stderr
        assert (finished / "result.json").read_bytes() == before

    def test_the_papers_method_exports_segments(self, tmp_path: Path) -> None:
        made = document(
            call(
                "run",
                *SMALL,
                "4",
                "--images",
                "2",
                "--held-out",
                "2",
                "--method",
                "flexiffusion",
                "--solver",
                "ddim",
                "--out",
                str(tmp_path / "r"),
                "--json",
            )
        )
        found = next(row for row in made["rows"] if row["kind"] == "found")
        schedule = codec.read(found["schedule_file"])
        assert isinstance(schedule.plan, SegmentsPlan) and schedule.plan.layout == "front"
        assert schedule.levels is not None and len(schedule.levels) == 8
        assert {row["kind"] for row in made["rows"]} >= {"teacher", "found", "plain", "deepcache"}

    @pytest.mark.parametrize("latent", [False, True])
    def test_an_unconditional_model(self, latent: bool, tmp_path: Path) -> None:
        folder = write_unconditional(tmp_path / "model", latent)
        made = document(call("run", *SMALL, "8", "--model", str(folder), "--out", str(tmp_path / "run"), "--json"))
        assert {row["kind"] for row in made["rows"]} >= {"teacher", "found", "plain"}
        assert codec.read(next((tmp_path / "run" / "schedules").glob("*.json"))).model.family == (
            "ldm" if latent else "ddpm"
        )

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["--solver", "dpm_fast"], exit_codes.USAGE, "'dpm_fast' is not one of 'fitted', 'ddim', 'plms'"),
            (["--speedup", "0.5"], exit_codes.USAGE, "--speedup: 0.5 is out of range"),
            (["--steps", "2"], exit_codes.USAGE, "--steps: 2 is out of range"),
            (["--model", "/no/such"], exit_codes.MODEL, "/no/such: there is no such file or folder"),
            (["--prompts", "/no/such"], exit_codes.USAGE, "cannot be read"),
            (["--features", "resnet"], exit_codes.USAGE, "'resnet' is not known"),
            (["--storage", "nosuchdb://x"], exit_codes.RUN_FOLDER, "trial store cannot be opened"),
        ],
    )
    def test_bad_settings(self, arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
        result = call("run", *SMALL, "2", *arguments, "--out", str(tmp_path / "run"))
        assert result.exit_code == code and message in result.stderr and "Traceback" not in result.stderr


class TestSingleFile:
    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write(tmp_path_factory.mktemp("model") / "sd15.safetensors", "sd15")

    @pytest.fixture(scope="class")
    def run(self, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "single"
        made = document(
            call("run", "--model", str(checkpoint), "--size", "64", "--steps", "6", "--speedup", "2", "--images", "2",
                 "--held-out", "2", "--evaluations", "3", "--no-planner", "--out", str(folder), "--json")
        )  # fmt: skip
        assert made["peak_memory"] > 2**26
        return folder

    def test_the_schedule_has_family_hash_size_and_prediction(self, run: Path, checkpoint: Path) -> None:
        schedule = codec.read(next((run / "schedules").glob("*.json")))
        assert schedule.model.family == "sd15" and schedule.model.branches == 12
        assert schedule.model.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert schedule.sampling.size == (64, 64) and schedule.sampling.prediction == "epsilon"

    def test_evaluate_takes_the_size_from_the_schedule(self, run: Path, checkpoint: Path) -> None:
        schedule = next((run / "schedules").glob("*.json"))
        result = call("evaluate", str(schedule), "--model", str(checkpoint), "--images", "2")
        assert result.exit_code == 0 and "64x64" in result.stderr and "note:" not in result.stderr
        assert "peak memory" in result.stdout

    def test_another_checkpoint_of_the_family(self, run: Path, tmp_path: Path) -> None:
        """`evaluate` says so; `resume` refuses."""
        other = write(tmp_path / "other.safetensors", "sd15", seed=1)
        result = call("evaluate", str(next((run / "schedules").glob("*.json"))), "--model", str(other), "--images", "2")
        assert result.exit_code == 0 and "was searched on another checkpoint" in result.stderr
        settings = json.loads((run / "settings.json").read_text())
        shutil.copytree(run, tmp_path / "moved")
        (tmp_path / "moved" / "settings.json").write_text(json.dumps(settings | {"model": str(other)}))
        resumed = call("resume", str(tmp_path / "moved"))
        assert resumed.exit_code == exit_codes.RUN_FOLDER and "its model has changed" in resumed.stderr

    def test_profile_says_size_batch_dtype_and_device(self, checkpoint: Path) -> None:
        made = document(call("profile", "--model", str(checkpoint), "--size", "64x128", "--repeats", "1", "--json"))
        assert made["size"] == [64, 128] and made["batch"] == 1 and made["dtype"] == "float32"
        assert made["device"].startswith("cpu") and len(made["sha256"]) == 64 and made["peak_memory"] > 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--size", "big"], "'big' is no picture size"),
            (["--size", "63"], "63x63 does not fit"),
            (["--batch", "0"], "--batch: 0 is out of range"),
            (["--device", "quantum"], "'quantum' cannot be used"),
            (["--prediction", "velocity"], "'velocity' is not known"),
        ],
    )
    def test_bad_settings(self, arguments: list[str], message: str, checkpoint: Path) -> None:
        result = call("profile", "--model", str(checkpoint), *arguments)
        assert result.exit_code == exit_codes.USAGE and message in result.stderr

    def test_a_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "model.ckpt").write_bytes(b"")
        result = call("profile", "--model", str(tmp_path / "model.ckpt"))
        assert result.exit_code == exit_codes.MODEL and "pickles" in result.stderr


class TestResume:
    def test_of_a_finished_run_evaluates_nothing_and_reports_the_same(self, finished: Path) -> None:
        before = json.loads((finished / "result.json").read_text())
        after = document(call("resume", str(finished), "--json"))
        for old, new in zip(before["rows"], after["rows"], strict=True):
            assert old["errors"] == new["errors"] and old["label"] == new["label"]

    def test_of_nothing(self, tmp_path: Path) -> None:
        result = call("resume", str(tmp_path))
        assert result.exit_code == exit_codes.RUN_FOLDER and "there is no run in it" in result.stderr

    def test_of_a_newer_versions_run(self, tmp_path: Path) -> None:
        (tmp_path / "settings.json").write_text('{"model": "tiny", "quantum": true}')
        result = call("resume", str(tmp_path))
        assert result.exit_code == exit_codes.RUN_FOLDER and "quantum" in result.stderr

    def test_after_kill_9_the_front_is_that_of_a_whole_run(self, finished: Path, tmp_path: Path) -> None:
        """The process is killed in the middle of the search; benchmarks/kill_resume.py does so at random moments."""
        folder = tmp_path / "killed"
        # the front is of the search's images: the held-out ones may be fewer
        arguments = [*SMALL, EVALUATIONS, "--held-out", "2", "--out", str(folder)]
        process = subprocess.Popen(
            [sys.executable, "-m", "flexsearch", "run", *arguments],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
        deadline = time.monotonic() + 200
        while finished_trials(folder) < 3:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = finished_trials(folder)
        assert 3 <= before < int(EVALUATIONS)
        assert call("resume", str(folder), "--json").exit_code == 0
        fronts = [json.loads((path / "result.json").read_text())["front"] for path in (finished, folder)]
        schedules = [[point["schedule"] for point in front] for front in fronts]
        assert schedules[0] == schedules[1]
        for whole, resumed in zip(*fronts, strict=True):
            assert resumed["error"] == pytest.approx(whole["error"], rel=1e-4)


def finished_trials(folder: Path) -> int:
    """Finished trials of a run that another process works on."""
    import sqlite3

    if not (folder / "study.db").exists():
        return 0
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    except sqlite3.OperationalError:  # the tables are not made yet
        return 0


class TestEvaluateAndCompare:
    def test_evaluate_a_searched_schedule(self, finished: Path, tmp_path: Path) -> None:
        (path,) = (finished / "schedules").glob("*.json")
        made = document(call("evaluate", str(path), "--images", "4", "--png", str(tmp_path / "x.png"), "--json"))
        assert [row["kind"] for row in made["rows"]] == ["teacher", "found"]
        assert made["rows"][1]["errors"]["latent/teacher"]["n"] == 4
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    def test_compare_shows_every_rival(self, finished: Path) -> None:
        (path,) = (finished / "schedules").glob("*.json")
        made = document(call("compare", str(path), "--images", "3", "--choose-on", "2", "--json"))
        assert {row["kind"] for row in made["rows"]} >= {"teacher", "found", "plain", "deepcache"}
        everywhere = RIVALS - {"spectrum", "easycache"}  # those exist near some costs only
        assert everywhere <= {item["rival"] for item in made["comparisons"]} <= RIVALS

    def test_the_table_on_a_terminal(self, finished: Path) -> None:
        (path,) = (finished / "schedules").glob("*.json")
        result = call("evaluate", str(path), "--images", "2")
        assert result.exit_code == 0 and "teacher, 8 steps" in result.stdout

    @pytest.mark.parametrize("command", ["evaluate", "compare", "verify"])
    def test_a_schedule_that_is_not_faster_than_its_teacher(
        self, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No word on a --speedup that nobody gave."""
        # two rivals: there are dozens at the cost of the teacher
        monkeypatch.setattr(experiment, "all_seeds", lambda levels, *_: list(plain_seeds(levels, (4, 5))))
        whole = tmp_path / "whole.json"
        codec.write(whole, tiny_schedule(SegmentsPlan((Segment(6, 6, 8),) * 1)))
        more = () if command == "evaluate" else ("--choose-on", "2")
        result = call(command, str(whole), "--images", "2", *more, "--json")
        assert result.exit_code == 0, result.stderr
        (found,) = [row for row in json.loads(result.stdout)["rows"] if row["kind"] == "found"]
        assert found["full"] == 1 and found["partial"] == 5 and found["cost_full_steps"] > 5

    def test_levels_that_fall_on_one_of_the_models(self, tmp_path: Path) -> None:
        """A file of a zero terminal SNR model: its first level is far above the highest of this one."""
        levels = (4518.0, 53.0, 18.4, 2.0, 1.9999, 0.5)
        path = tmp_path / "zsnr.json"
        codec.write(path, tiny_schedule(StepsPlan(tuple(Step(level, FULL) for level in levels))))
        made = document(call("evaluate", str(path), "--images", "2", "--json"))
        assert made["rows"][1]["full"] == 4  # as hosts run it: their own first level, then what lies below

    def test_a_schedule_of_another_family(self) -> None:
        other = next(Path("schedules").glob("sd15*.json"))
        result = call("evaluate", str(other), "--images", "2")
        assert result.exit_code == exit_codes.MODEL and "made for sd15 with 12 branches" in result.stderr

    def test_a_broken_schedule(self) -> None:
        result = call("evaluate", "tests/attacks/empty.json")
        assert result.exit_code == exit_codes.SCHEDULE


def test_profile_prints_and_saves_both_tables(tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    made = document(call("profile", "--batch", "1", "--repeats", "1", "--out", str(out), "--json"))
    assert json.loads(out.read_text()) == made
    assert set(made["macs"]["partial"]) == set(made["ms"]["partial"]) == {str(branch) for branch in range(-1, 9)}
    assert call("profile", "--batch", "1", "--repeats", "1").stdout.count("branch") >= 10


def test_profile_into_a_missing_folder() -> None:
    result = call("profile", "--batch", "1", "--repeats", "1", "--out", "/no/such/costs.json")
    assert result.exit_code == exit_codes.USAGE and "cannot be written" in result.stderr


class TestPlan:
    @pytest.fixture(autouse=True)
    def small_tables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(macro_steps, "LEVELS", 6)

    def test_plans_and_writes_files_that_can_be_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        arguments = ("plan", "--steps", "12", "--speedup", "3", "--speedup", "6", "--out", str(tmp_path), "--json")
        plans = document(call(*arguments))["plans"]
        assert [plan["asked"] for plan in plans] == [3.0, 6.0]
        for plan in plans:
            assert plan["speedup"]["macs"] >= plan["asked"] / (1 + SLACK)
            schedule = codec.read(Path(plan["file"]))
            assert isinstance(schedule.plan, StepsPlan) and not schedule.metrics
            assert len(schedule.plan.steps) == plan["full"] + plan["partial"]
        assert plans[0]["predicted_latent_error"] < plans[1]["predicted_latent_error"]
        # the tables are kept: the same again measures nothing
        (tables,) = (Path(os.environ["XDG_CACHE_HOME"]) / "flexiffusion" / "references").glob("tables-*")
        before = tables.stat().st_mtime_ns
        assert document(call(*arguments))["plans"] == plans
        assert tables.stat().st_mtime_ns == before

    def test_for_another_device(self, tmp_path: Path) -> None:
        """Where partial steps cost as much as full ones, they are not worth planning."""
        profile = tmp_path / "profile.json"
        slow = CostTable("ms", 10.0, {branch: 10.0 for branch in range(-1, 9)})
        profile.write_text(json.dumps({"ms": slow.to_dict()}))
        (plan,) = document(call("plan", "--steps", "12", "--speedup", "6", "--profile", str(profile), "--json"))[
            "plans"
        ]
        assert plan["full"] + plan["partial"] <= 2 and plan["speedup"]["ms"] >= 6 / (1 + SLACK)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--speedup", "11.9"), "no plan is 11.9x as fast"),
            (("--profile", "nowhere.json"), "it cannot be read"),
            (("--profile", "OTHER"), "it has branches -1 to 2, but tiny has -1 to 8"),
        ],
    )
    def test_says_what_is_wrong(
        self, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.json"
        other.write_text(json.dumps({"ms": CostTable("ms", 10.0, dict.fromkeys(range(-1, 3), 5.0)).to_dict()}))
        arguments = tuple(str(other) if argument == "OTHER" else argument for argument in arguments)
        monkeypatch.setattr("flexiffusion.search.planner.REACH", 2)
        monkeypatch.setattr(macro_steps, "REACH", 2)
        result = call("plan", "--steps", "12", *arguments)
        assert result.exit_code == exit_codes.USAGE and words in result.stderr
