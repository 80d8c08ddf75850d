"""Schedules as other programs take them: the texts, word for word, and what is said to be lost."""

from __future__ import annotations

import ast
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from drawn_schedules import own_solver, schedule, segments, steps

from flexiffusion.metadata import ModelInfo, Sampling
from flexiffusion.presets import named
from flexiffusion.schedule import SegmentsPlan, Step, StepsPlan
from flexsearch.cli.app import main
from flexsearch.errors import ConfigError
from flexsearch.sharing.formats import TARGETS, Exported, export

FLUX = named("flux-alternate-linear").schedule
TURNS = schedule(steps((14.5, "F"), (6.0, "P"), (2.0, "F"), (0.5, "P"), (0.1, "F")))
NULLS = schedule(segments("FPP FPN FNN F"))


@pytest.mark.parametrize(
    ("made", "target", "text"),
    [
        (FLUX, "cache-dit", f"[{', '.join(['1, 0'] * 15)}]"),
        (FLUX, "sd.cpp", f"--cache-mode cache-dit --scm-mask {','.join(['1,0'] * 15)} --scm-policy static"),
        (FLUX, "steps", "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28"),
        (TURNS, "cache-dit", "[1, 0, 1, 0, 1]"),
        (TURNS, "sigmas", "14.5, 6, 2, 0.5, 0.1, 0"),
        (TURNS, "steps", "0, 2, 4"),
        (NULLS, "cache-dit", "[1, 0, 0, 1, 0, 1, 1]"),
        (NULLS, "steps", "0, 3, 5, 6"),
        (replace(NULLS, levels=tuple(float(10 - i) for i in range(10))), "sigmas", "10, 9, 8, 7, 6, 4, 1, 0"),
    ],
)
def test_texts(made: object, target: object, text: str) -> None:
    assert export(made, target).text == text  # type: ignore[arg-type]


def test_what_is_lost_is_said() -> None:
    assert export(FLUX, "cache-dit").lost == (
        "the branch of partial steps (-1): the target has its own",
        "how features are predicted (linear): the target has its own way",
    )
    assert export(NULLS, "sd.cpp").lost == (
        "its 3 null steps: take the noise levels of steps 5, 7, 8 out of the list of 10 (counted from 0); the 7 steps "
        "here are what is left",
        "the branch of partial steps (1): the target has its own",
        "sd.cpp skips steps of transformers only, and this is for tiny",
    )
    assert export(TURNS, "sigmas").lost == ("that 2 of 5 steps are partial: all of them run in full",)
    assert export(TURNS, "steps").lost[0].startswith("its noise levels: use --to sigmas beside it")


def test_weights_and_dropped_units_are_lost_everywhere() -> None:
    plan = own_solver(steps((14.5, "F"), (2.0, "F"), (0.1, "F")))
    rows = [Step(step.sigma, replace(step.action, drop=("middle_block.1",)), step.weights) for step in plan.steps]
    made = schedule(StepsPlan(tuple(rows)))
    for target in TARGETS:
        assert export(made, target).lost[-2:] == (
            "its own solver (weights): its levels suit no other", "the units that its steps drop: all run",
        )  # fmt: skip


def test_a_mask_of_nothing_but_full_steps_loses_nothing() -> None:
    plan = SegmentsPlan(segments("F F F F F").segments, noise="flow")
    facts = {"model": ModelInfo("flux", 56, None, 57), "sampling": Sampling(None, None, 5, None, None, "flow")}
    assert export(schedule(plan, **facts), "cache-dit") == Exported("[1, 1, 1, 1, 1]", ())


def test_sigmas_of_a_schedule_that_records_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="it records no noise levels"):
        export(NULLS, "sigmas")


def test_the_command() -> None:
    result = CliRunner().invoke(main, ["presets", "export", "flux-alternate-linear", "--to", "cache-dit"])
    assert result.exit_code == 0 and ast.literal_eval(result.stdout) == [1, 0] * 15
    assert "lost  how features are predicted (linear)" in result.stderr
    result = CliRunner().invoke(main, ["presets", "export", "sd15-turns-10", "--to", "sigmas", "--json"])
    told = json.loads(result.stdout)
    assert told["preset"] == "sd15-turns-10" and told["to"] == "sigmas" and told["text"].startswith("14.6146, 9.72747")
    assert told["lost"] == ["that 10 of 20 steps are partial: all of them run in full"]
