"""Finding schedule files, and the presets that are shipped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

from flexiffusion.codec import dumps, write
from flexiffusion.presets import Preset, bundled_folder, default_folders, find, for_family, own_folders, user_folder
from flexiffusion.schedule import ModelInfo, Sampling, Schedule, Segment, SegmentsPlan
from tools import make_heuristic_presets

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "schedules").glob("*.json"))


def schedule(name: str, family: str = "sd15") -> Schedule:
    sampling = Sampling(None, None, 4, None, None, None)
    return Schedule(name, ModelInfo(family, 12), sampling, SegmentsPlan((Segment(4, 2),)))


class TestFind:
    def test_good_and_broken_files(self, tmp_path: Path) -> None:
        for folder in ("one", "two"):
            (tmp_path / folder / "deeper.json").mkdir(parents=True)
            write(tmp_path / folder / "b.json", schedule(f"{folder} b"))
            write(tmp_path / folder / "a.json", schedule(f"{folder} a", "sdxl"))
        (tmp_path / "one" / "broken.json").write_text("{")
        (tmp_path / "one" / "alien.json").write_text('{"format": "other"}')
        (tmp_path / "one" / "readme.txt").write_text("no schedule")
        (tmp_path / "one" / ".hidden.json").write_text("half written")
        presets, errors = find(
            [tmp_path / "two", str(tmp_path / "one"), tmp_path / "none", tmp_path / "one" / ".." / "two"]
        )
        assert [preset.schedule.name for preset in presets] == ["two a", "two b", "one a", "one b"]
        assert presets[0] == Preset(tmp_path / "two" / "a.json", schedule("two a", "sdxl"))
        assert [error.place.split(": ")[0] for error in errors] == [
            str(tmp_path / "one" / "alien.json"),
            str(tmp_path / "one" / "broken.json"),
            str(tmp_path / "none"),
        ]
        assert "No such file" in errors[2].problem
        assert [preset.schedule.name for preset in for_family(presets, "sdxl")] == ["two a", "one a"]
        assert for_family(presets, "flux") == ()

    def test_no_folders(self) -> None:
        assert find([]) == ((), ())

    def test_the_default_folders_hold_what_is_shipped(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        write(tmp_path / "mine.json", schedule("mine"))
        monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path))
        presets, errors = find()
        assert errors == ()
        assert [preset.path.name for preset in presets] == [*(path.name for path in SHIPPED), "mine.json"]


class TestFolders:
    def test_bundled(self) -> None:
        assert bundled_folder() == ROOT / "schedules"

    def test_by_platform(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        tail = Path("flexiffusion") / "schedules"
        assert user_folder({}, "linux") == tmp_path / ".local" / "share" / tail
        assert user_folder({"XDG_DATA_HOME": str(tmp_path / "x")}, "linux") == tmp_path / "x" / tail
        assert user_folder({"XDG_DATA_HOME": "relative"}, "linux") == tmp_path / ".local" / "share" / tail
        assert user_folder({"XDG_DATA_HOME": "/x"}, "darwin") == tmp_path / "Library" / "Application Support" / tail
        assert user_folder({"APPDATA": str(tmp_path / "r")}, "win32") == tmp_path / "r" / tail
        assert user_folder({}, "win32") == tmp_path / "AppData" / "Roaming" / tail

    def test_the_users_own_counts_when_it_exists(self, tmp_path: Path) -> None:
        variables = {"XDG_DATA_HOME": str(tmp_path)}
        if user_folder(variables).parent.parent != tmp_path:
            pytest.skip("the rule of another platform")
        assert default_folders(variables) == (bundled_folder(),)
        assert own_folders(variables) == (user_folder(variables),), "where new ones are put, there or not"
        own = tmp_path / "flexiffusion" / "schedules"
        own.mkdir(parents=True)
        assert default_folders(variables) == (bundled_folder(), own)

    def test_the_environment_overrides(self, tmp_path: Path) -> None:
        variables = {"FLEXIFFUSION_PRESETS": f"{tmp_path}{os.pathsep}{os.pathsep}/other"}
        assert default_folders(variables) == (bundled_folder(), tmp_path, Path("/other"))


class TestShipped:
    def test_heuristics_are_what_the_tool_makes(self) -> None:
        for made in make_heuristic_presets.presets():
            file = ROOT / "schedules" / f"{made.name}.json"
            assert file.read_bytes() == dumps(made), "run python -m tools.make_heuristic_presets"

    @pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
    def test_each_is_small_canonical_honest_and_listed(self, path: Path) -> None:
        (preset,) = (preset for preset in find([ROOT / "schedules"])[0] if preset.path.name == path.name)
        data = path.read_bytes()
        assert len(data) < 8192
        assert dumps(preset.schedule) == data
        assert preset.schedule.name == path.stem
        document = json.loads(data)
        schema = ROOT / "schedules" / "schema" / f"schedule-{document['version']}.schema.json"
        jsonschema.validate(document, json.loads(schema.read_bytes()))
        if preset.schedule.provenance.kind == "heuristic":
            assert preset.schedule.metrics == () and preset.schedule.cost is None, "nothing measured may be claimed"
        assert f"`{path.stem}`" in (ROOT / "schedules" / "README.md").read_text(encoding="utf-8")

    def test_families(self) -> None:
        presets, errors = find([ROOT / "schedules"])
        assert errors == ()
        for family, branches in (("sd15", 12), ("sd21", 12), ("sdxl", 9)):
            chosen = for_family(presets, family)
            assert len(chosen) >= 4 and {preset.schedule.model.branches for preset in chosen} == {branches}
