"""run, resume, evaluate and compare on the bundled model, as a user calls them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli.commands import call, document
from model_folders import write_unconditional
from PIL import Image

from flexiffusion import codec
from flexiffusion.schedule import SegmentsPlan, StepsPlan
from flexiffusion.search.racing import SLACK
from flexsearch.cli import exit_codes
from flexsearch.sampling import references

pytestmark = pytest.mark.usefixtures("shared_cache")

RIVALS = {"plain", "uni_pc", "dpmpp_3m", "plain_fitted", "deepcache", "spectrum", "easycache"}  # that nobody searched
# The planner's tables take as long as all of this: test_plan_command.py and test_search_run.py make small ones.
SMALL = ["--steps", "8", "--speedup", "2", "--images", "2", "--held-out", "2", "--no-planner", "--evaluations"]
EVALUATIONS = "14"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert call("run", *SMALL, EVALUATIONS, "--out", str(folder), "--json").exit_code == 0
    return folder


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
        assert len(kept) == 2 * 2, "teacher and one schedule, two images"
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
        assert all(metric.n == 2 for metric in schedule.metrics)
        assert schedule.cost is not None and schedule.cost.speedup_macs is not None
        assert schedule.cost.speedup_macs >= 2 / (1 + SLACK)

    def test_the_table_has_every_rival(self, finished: Path) -> None:
        result = json.loads((finished / "result.json").read_text())
        assert [row["kind"] for row in result["rows"]].count("teacher") == 1
        kinds = {row["kind"] for row in result["rows"] if row["speedup_asked"] == 2}
        assert kinds == {"found", "placed_fitted", *RIVALS}
        for row in result["rows"]:
            assert row["relative_fid_n"] == 2 and row["seconds_per_image"] > 0
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
        folder = write_unconditional(tmp_path / "model", False)
        made = document(
            call("run", *SMALL, "4", "--model", str(folder), "--method", "flexiffusion", "--solver", "ddim",
                 "--out", str(tmp_path / "r"), "--json")
        )  # fmt: skip
        found = next(row for row in made["rows"] if row["kind"] == "found")
        schedule = codec.read(found["schedule_file"])
        assert isinstance(schedule.plan, SegmentsPlan) and schedule.plan.layout == "front"
        assert schedule.levels is not None and len(schedule.levels) == 8
        assert {row["kind"] for row in made["rows"]} >= {"teacher", "found", "plain", "deepcache"}

    @pytest.mark.parametrize("latent", [pytest.param(False, marks=pytest.mark.slow), True])  # see test_unit_searches.py
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

    @pytest.mark.slow  # test_driver.py kills every method's search in every run of the tests
    def test_after_kill_9_the_front_is_that_of_a_whole_run(self, finished: Path, tmp_path: Path) -> None:
        """The process is killed in the middle of the search; benchmarks/kill_resume.py does so at random moments."""
        folder = tmp_path / "killed"
        arguments = [*SMALL, EVALUATIONS, "--out", str(folder)]
        # references as converged as here: they are drawn before the search
        program = (
            f"from flexsearch.sampling import references; references.CONVERGED_STEPS = {references.CONVERGED_STEPS}\n"
            "from flexsearch.cli import main; main()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, "run", *arguments],
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
        made = document(call("evaluate", str(path), "--images", "2", "--png", str(tmp_path / "x.png"), "--json"))
        assert [row["kind"] for row in made["rows"]] == ["teacher", "found"]
        assert made["rows"][1]["errors"]["latent/teacher"]["n"] == 2
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    def test_compare_shows_every_rival(self, finished: Path) -> None:
        (path,) = (finished / "schedules").glob("*.json")
        made = document(call("compare", str(path), "--images", "2", "--choose-on", "2", "--json"))
        assert {row["kind"] for row in made["rows"]} >= {"teacher", "found", "plain", "deepcache"}
        everywhere = RIVALS - {"spectrum", "easycache"}  # those exist near some costs only
        assert everywhere <= {item["rival"] for item in made["comparisons"]} <= RIVALS

    def test_the_table_on_a_terminal(self, finished: Path) -> None:
        (path,) = (finished / "schedules").glob("*.json")
        result = call("evaluate", str(path), "--images", "2")
        assert result.exit_code == 0 and "teacher, 8 steps" in result.stdout
