"""`--method autodiffusion` and `--method joint` as a user calls them, on a tiny pixel model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli.commands import call, document
from model_folders import write_unconditional
from PIL import Image

from flexiffusion import codec
from flexiffusion.schedule import FULL, StepsPlan
from flexsearch.cli import exit_codes

pytestmark = pytest.mark.usefixtures("shared_cache")

SMALL = ["--steps", "8", "--speedup", "2", "--images", "4", "--held-out", "4", "--no-planner"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_unconditional(tmp_path_factory.mktemp("model") / "pixel", False))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, stream = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(stream.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def finished(model: str, pictures: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More timesteps than the budget pays for whole, judged by FID to real pictures, budget in executed layers."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    document(
        call("run", *SMALL, "--model", model, "--method", "autodiffusion", "--timesteps", "5", "--cost", "units",
             "--reference", pictures, "--features", "bundled", "--evaluations", "9", "--out", str(folder), "--json")
    )  # fmt: skip
    return folder


def the_schedule(folder: Path) -> Path:
    (path,) = (folder / "schedules").glob("*.json")
    return path


class TestAutoDiffusion:
    def test_exports_steps_that_drop_units_within_the_budget(self, finished: Path) -> None:
        schedule = codec.read(the_schedule(finished))
        assert isinstance(schedule.plan, StepsPlan) and len(schedule.plan.steps) == 5
        dropped = [name for action in schedule.plan.actions() for name in action.drop]
        costs = json.loads((finished / "costs.json").read_text())
        assert costs["unit"] == "units" and costs["full"] == 1 + len(costs["units"])
        assert dropped and set(dropped) <= set(costs["units"])
        assert 5 * costs["full"] - len(dropped) <= 4 * costs["full"]
        assert "judged by FID to real pictures" in schedule.description

    def test_fid_to_real_pictures_is_measured_and_minimised(self, finished: Path) -> None:
        schedule = codec.read(the_schedule(finished))
        (metric,) = (metric for metric in schedule.metrics if metric.name == "fid")
        assert metric.n == 4 and metric.reference == "real pictures" and metric.value > 0
        result = json.loads((finished / "result.json").read_text())
        found = next(row for row in result["rows"] if row["kind"] == "found")
        assert found["real_fid"] == pytest.approx(metric.value)
        assert "units dropped" in found["label"]
        assert list((finished / "references").glob("real-*.npz"))

    def test_the_rest_of_a_broken_off_run_is_that_of_a_whole_one(
        self, finished: Path, model: str, pictures: str, tmp_path: Path
    ) -> None:
        folder = tmp_path / "run"
        document(
            call("run", *SMALL, "--model", model, "--method", "autodiffusion", "--timesteps", "5", "--cost", "units",
                 "--reference", pictures, "--features", "bundled", "--evaluations", "4", "--out", str(folder), "--json")
        )  # fmt: skip
        settings = json.loads((folder / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps(settings | {"evaluations": 9}))
        document(call("resume", str(folder), "--json"))
        fronts = [json.loads((path / "result.json").read_text())["front"] for path in (finished, folder)]
        assert [p["schedule"] for p in fronts[0]] == [p["schedule"] for p in fronts[1]]

    def test_by_default_as_many_timesteps_as_the_speedup_pays_for(self, model: str, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        made = document(
            call("run", *SMALL, "--model", model, "--method", "autodiffusion", "--evaluations", "5", "--out",
                 str(folder), "--json")
        )  # fmt: skip
        rivals = {"plain", "uni_pc", "dpmpp_3m", "plain_searched", "deepcache"}
        assert {row["kind"] for row in made["rows"]} == {"teacher", "found", *rivals}
        actions = codec.read(the_schedule(folder)).plan.actions()
        assert actions == (FULL,) * 4, "the first stage drops nothing"

    def test_the_file_is_known_to_every_command(self, finished: Path, model: str, tmp_path: Path) -> None:
        path = str(the_schedule(finished))
        assert document(call("validate", path, "--json"))["refused"] == 0
        shown = document(call("show", path, "--json"))
        assert shown["dropped_units"] > 0
        text = call("show", path, "--png", str(tmp_path / "strip.png")).stdout
        assert f"{shown['dropped_units']} units dropped" in text and "how many units a step drops" in text
        made = document(call("evaluate", path, "--model", model, "--images", "4", "--json"))
        found = made["rows"][1]
        result = json.loads((finished / "result.json").read_text())
        before = next(row for row in result["rows"] if row["kind"] == "found")
        assert found["errors"]["latent/teacher"]["mean"] == pytest.approx(
            before["errors"]["latent/teacher"]["mean"], rel=1e-3
        ), "a file does what the search measured"

    def test_a_file_for_another_network(self, finished: Path, model: str, tmp_path: Path) -> None:
        path = tmp_path / "other.json"
        shutil.copy(the_schedule(finished), path)
        text = path.read_text()
        dropped = codec.read(path).plan.actions()
        name = next(name for action in dropped for name in action.drop)
        path.write_text(text.replace(name, "middle_block.7", 1))
        result = call("evaluate", str(path), "--model", model, "--images", "2")
        assert result.exit_code == exit_codes.MODEL and "middle_block.7" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--method", "autodiffusion", "--timesteps", "8", "--cost", "units"], "8 timesteps cost at least"),
            (["--method", "joint", "--timesteps", "4"], "--timesteps: --method joint finds their number"),
            (["--reference", "/no/such", "--features", "bundled"], "--reference: '/no/such' is not known"),
            (["--error", "fid"], "--error: 'fid' with --reference 'teacher'"),
        ],
    )
    def test_bad_settings(self, arguments: list[str], message: str, model: str, tmp_path: Path) -> None:
        result = call("run", *SMALL, "--model", model, *arguments, "--out", str(tmp_path / "run"))
        assert result.exit_code == exit_codes.USAGE and message in result.stderr


class TestJoint:
    def test_a_run(self, model: str, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        made = document(
            call("run", *SMALL, "--model", model, "--method", "joint", "--evaluations", "24", "--out", str(folder),
                 "--json")
        )  # fmt: skip
        found = next(row for row in made["rows"] if row["kind"] == "found")
        assert found["speedup_macs"] >= 2 - 1e-9
        rivals = [row for row in made["rows"] if row["kind"] == "plain_searched"]
        assert all("dropped" not in row["label"] for row in rivals), "plain steps drop nothing"
        plan = codec.read(the_schedule(folder)).plan
        assert isinstance(plan, StepsPlan)
