"""Bytes <-> Schedule: canonical files, frozen for ever; hostile bytes; reading and writing files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiffusion import codec, validation
from flexiffusion.codec import dumps, loads, read, write
from flexiffusion.errors import ScheduleError, VersionError
from flexiffusion.metadata import Cost, Metric, ModelInfo, Provenance, Sampling
from flexiffusion.schedule import FULL, Action, Schedule, Segment, SegmentsPlan, Step, StepsPlan

GOLDEN = Path(__file__).parent.parent / "golden"

FINGERPRINT = Schedule(
    name="sdxl-searched-here",
    model=ModelInfo("sdxl", 9, fingerprint=(0.85972114, -1, *(i / 16 for i in range(1, 15)))),
    sampling=Sampling("dpmpp_2m", "karras", 4, 7.0, (1024, 1024), "epsilon"),
    plan=SegmentsPlan((Segment(4, 2, -1, "linear"),)),
    provenance=Provenance("searched", "flexiffusion", 0, 60),
)
SEGMENTS = Schedule(
    name="sd15-dpmpp2m-10-2.6x",
    description="Größer, in two lines:\n\tsecond.",
    author="A. Nobody",
    model=ModelInfo("sd15", 12, "0123456789abcdef" * 4),
    sampling=Sampling("dpmpp_2m", "karras", 10, 7.0, (512, 768), "epsilon"),
    plan=SegmentsPlan((Segment(5, 3, 1), Segment(3, 2, -1, "quadratic"), Segment(2, 1, 0, "linear")), "even"),
    levels=(14.614642, 11.9, 8.0, 5.5, 3.25, 2, 1.2, 0.7, 0.3, 1 / 30),
    metrics=(
        Metric("relative_fid", 3.1, 256, "inception-2048", "teacher, same noise", (2.5, 3.875)),
        Metric("latent_mse", 1.25e-4, 64),
    ),
    cost=Cost(5.2e12, 2.6, {"NVIDIA H100, fp16, batch 2": 512, "CPU": 1e5 / 3}),
    provenance=Provenance("searched", "flexsearch 0.1.0", 0, 420),
    extra={"z": [1, 2.5, None, True, {"ü": "\u00e9\n"}], "a": {}, "large": 12345678901234567890},
)
STEPS = Schedule(
    name="steps",
    model=ModelInfo("tiny", 9),
    sampling=Sampling(None, None, 30, None, None, None),
    plan=StepsPlan(
        (
            Step(157.40723, FULL),
            Step(9.1, Action("partial", 0, "linear")),
            Step(4, Action("full", drop=("mid.attentions.0", "down.1"))),
            Step(1e-5, Action("partial", -1, "reuse", ("up.0",))),
        )
    ),
)
WEIGHTS = Schedule(
    name="flux-own-solver",
    model=ModelInfo("flux", 57, None, 57),
    sampling=Sampling("euler", None, 20, 3.5, None, "flow"),
    plan=StepsPlan(
        (
            Step(1, FULL, (0.98,)),
            Step(0.9, Action("partial", -1, "linear"), (1.4, -0.4)),
            Step(0.5, FULL, (1.6, -0.9, 0.3125)),
        ),
        "flow",
    ),
)
ALL = {"segments": SEGMENTS, "steps": STEPS, "weights": WEIGHTS, "fingerprint": FINGERPRINT}


class TestCanonical:
    @pytest.mark.parametrize(("name", "schedule"), ALL.items())
    def test_the_bytes_never_change(self, name: str, schedule: Schedule) -> None:
        """Files are hashed and compared by their users: a change here needs a new format version."""
        frozen = (GOLDEN / f"{name}.json").read_bytes()
        assert dumps(schedule) == frozen
        assert loads(frozen) == schedule

    def test_any_spelling_of_the_same_document_gives_the_same_bytes(self) -> None:
        for schedule in ALL.values():
            document = json.loads(dumps(schedule))
            shuffled = {key: document[key] for key in reversed(document)}
            for spelled in (json.dumps(shuffled), json.dumps(document, indent=7, ensure_ascii=False) + "\r\n"):
                assert dumps(loads(spelled.encode())) == dumps(schedule)

    def test_defaults_may_be_left_out(self) -> None:
        document = json.loads(dumps(STEPS))
        for key in ("description", "author", "license", "levels", "metrics", "cost", "extra"):
            del document[key]
        del document["model"]["sha256"]
        document["provenance"] = {"kind": "heuristic"}
        del document["plan"]["steps"][3]["predictor"]
        assert loads(json.dumps(document).encode()) == STEPS

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (7.0, "7"),
            (-0.0, "0"),
            (0.1, "0.1"),
            (5.2e12, "5.2e12"),
            (1e-5, "1e-5"),
            (1e22, "1e22"),
            (123456.0, "123456"),
            (100000.0, "1e5"),
            (1 / 3, "0.3333333333333333"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e308"),
        ],
    )
    def test_numbers_are_short(self, value: float, text: str) -> None:
        assert codec._shortest(value) == text

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_numbers_read_back_exactly(self, value: float) -> None:
        text = codec._shortest(value)
        assert float(text) == value and len(text) <= len(repr(value))
        assert json.loads(text) == value

    def test_a_file_that_no_reader_takes_is_not_written(self) -> None:
        big = Schedule("big", STEPS.model, STEPS.sampling, STEPS.plan, extra={"a": ["x" * 60000, "y" * 6000]})
        with pytest.raises(ScheduleError, match=r"big: the file would have 66... bytes"):
            dumps(big)

    def test_the_limits_themselves_are_allowed(self) -> None:
        deep = Schedule("deep", STEPS.model, STEPS.sampling, STEPS.plan, extra={"a": [[[[[[1]]]]]]})
        assert loads(dumps(deep)) == deep
        data = dumps(STEPS)
        assert loads(data + b" " * (codec.MAX_BYTES - len(data))) == STEPS
        many = StepsPlan(tuple(Step(1000.0 - i, FULL) for i in range(1000)))
        assert loads(dumps(Schedule("many", STEPS.model, STEPS.sampling, many))).plan == many


class TestVersions:
    def document(self, **changes: Any) -> dict[str, Any]:
        return {**json.loads(dumps(STEPS)), **changes}

    def test_migrations_run_one_after_the_other(self) -> None:
        def one_to_two(document: dict[str, Any]) -> dict[str, Any]:
            return {**document, "title": document["name"]}

        def two_to_three(document: dict[str, Any]) -> dict[str, Any]:
            assert document["title"] == "steps"
            return {**document, "done": True}

        result = validation.migrated(self.document(), "$", {1: one_to_two, 2: two_to_three}, 3)
        assert result["version"] == 3 and result["title"] == "steps" and result["done"] is True

    def test_a_version_without_migration_is_refused(self) -> None:
        with pytest.raises(VersionError, match=r"\$.version: version 1 can no longer be read. Export"):
            validation.migrated(self.document(), "$", {2: dict}, 3)

    def test_a_newer_version_is_refused(self) -> None:
        with pytest.raises(VersionError, match=r"made by a newer flexiffusion; this one reads up to 2. Update"):
            loads(json.dumps(self.document(version=999, unknown="key")).encode())

    def test_a_migrated_file_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def grown(document: dict[str, Any]) -> dict[str, Any]:
            return {**document, "author": "migrated"}

        monkeypatch.setattr(validation.migrated, "__defaults__", ({1: grown}, 2))
        assert loads(dumps(STEPS)).author == "migrated"

    def test_what_format_1_can_say_is_written_as_format_1(self) -> None:
        assert json.loads(dumps(STEPS))["version"] == json.loads(dumps(SEGMENTS))["version"] == 1

    @pytest.mark.parametrize("key", ["weights", "noise", "blocks"])
    def test_what_is_new_makes_format_2(self, key: str) -> None:
        model, plan = STEPS.model, STEPS.plan
        assert isinstance(plan, StepsPlan)
        if key == "blocks":
            model = replace(model, blocks=57)
        elif key == "noise":
            steps = tuple(replace(step, sigma=step.sigma / 1000) for step in plan.steps)
            plan = StepsPlan(steps, "flow")
        else:
            plan = StepsPlan(tuple(replace(step, weights=(1.0,)) for step in plan.steps))
        schedule = Schedule("new", model, STEPS.sampling, plan)
        data = dumps(schedule)
        assert json.loads(data)["version"] == 2 and loads(data) == schedule

    def test_a_file_of_format_2_may_say_what_format_1_can(self) -> None:
        assert loads(json.dumps(self.document(version=2)).encode()) == STEPS


class TestHostileBytes:
    @given(st.binary(max_size=200))
    def test_random_bytes(self, data: bytes) -> None:
        with pytest.raises(ScheduleError):
            loads(data)

    @given(st.sampled_from([dumps(SEGMENTS), dumps(STEPS), dumps(WEIGHTS)]), st.data())
    def test_damaged_files_are_read_or_refused(self, good: bytes, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(good) - 1))
        until = data.draw(st.integers(at, min(len(good), at + 30)))
        damaged = (
            good[:at]
            + data.draw(st.binary(max_size=4) | st.text('{}[]",:0.-eE ', max_size=4).map(str.encode))
            + good[until:]
        )
        try:
            schedule = loads(damaged)
        except ScheduleError as error:
            assert error.place.startswith("<bytes>") and error.problem and error.remedy
            str(error).encode()  # printable everywhere
        else:
            assert loads(dumps(schedule)) == schedule


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        write(tmp_path / "a.json", SEGMENTS)
        assert read(tmp_path / "a.json") == SEGMENTS == read(str(tmp_path / "a.json"))
        write(str(tmp_path / "a.json"), STEPS)
        assert read(tmp_path / "a.json") == STEPS
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "a.json", SEGMENTS)

        def full(_: int) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            write(tmp_path / "a.json", STEPS)
        assert read(tmp_path / "a.json") == SEGMENTS
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

    def test_errors_name_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        with pytest.raises(ScheduleError) as caught:
            read(path)
        assert caught.value.place == str(path)
        path.write_bytes(dumps(SEGMENTS).replace(b'"active": 3', b'"active": 6'))
        with pytest.raises(ScheduleError) as caught:
            read(path)
        assert caught.value.place == f"{path}: $.plan.segments[0].active"

    @pytest.mark.parametrize("path", ["", ".", "a\0b", "/dev/zero"])
    def test_what_is_no_file(self, path: str) -> None:
        with pytest.raises(ScheduleError):
            read(path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.json")
        with pytest.raises(ScheduleError, match="no such regular file"):
            read(tmp_path / "pipe.json")
