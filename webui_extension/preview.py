"""A schedule as HTML: its strip of full, partial and null steps, what it was made with, what was measured.

Schedules come from strangers: every text of one is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from flexiffusion.plan import Plan
from flexiffusion.schedule import Action, Metric, Schedule, StepsPlan
from flexiffusion.strip import KIND_COLOURS, KIND_HEIGHTS
from flexiffusion.summary import counts_text, sampling_text, step_text


def html(
    schedule: Schedule, family: str | None, outlook: Sequence[str] = (), plan: Plan | None = None, is_rule: bool = False
) -> str:
    """The preview of one schedule.

    family:  of the loaded model, None if not known
    outlook: what it would do with the settings on the screen, and `plan` the steps of that
    is_rule: it was made for these settings, by the rule behind "auto"
    """
    actions = schedule.plan.actions()
    lines = [_strip(plan.actions if plan is not None else actions), *(f"<b>{escape(line)}</b>" for line in outlook)]
    if is_rule:
        return _lines([*lines, _faint(schedule.description)])
    lines += [f"{escape(schedule.name)}: {counts_text(actions)}", f"Made with {_text(schedule)}"]
    if family is not None and family != schedule.model.family:
        lines.insert(0, f"<b>Does not fit: made for {escape(schedule.model.family)}, loaded is {escape(family)}.</b>")
    if isinstance(schedule.plan, StepsPlan):
        lines.append(
            "Brings its own noise levels: the scheduler is not used, and the steps slider only where it asks for fewer "
            f"than {len(actions)} steps."
        )
    lines += [_measured(metric) for metric in schedule.metrics]
    if schedule.cost is not None and schedule.cost.speedup_macs is not None:
        lines.append(f"{schedule.cost.speedup_macs:.2f}x fewer multiply-adds")
    if schedule.cost is not None:
        lines += [f"{ms:.0f} ms on {escape(device)}" for device, ms in schedule.cost.ms.items()]
    if schedule.provenance.kind == "heuristic" and "not measured" not in (schedule.description or ""):
        lines.append("Its quality was not measured.")
    if schedule.description:
        lines.append(_faint(schedule.description))
    return _lines(lines)


def _lines(lines: Sequence[str]) -> str:
    return f'<div class="flexiffusion-preview">{"<br>".join(lines)}</div>'


def _faint(text: str) -> str:
    return f'<span style="opacity:.75">{escape(text)}</span>'


def problem(message: str) -> str:
    """The preview of a choice that is no schedule."""
    return f'<div class="flexiffusion-preview">{escape(message)}</div>'


def _text(schedule: Schedule) -> str:
    return escape(f"{sampling_text(schedule.sampling)}; for {schedule.model.family}")


def _strip(actions: Sequence[Action]) -> str:
    cells = "".join(
        f'<span title="{i + 1}: {step_text(action)}" style="flex:1;min-width:2px;height:{_height(action)}px;'
        f'background:{KIND_COLOURS[action.kind]};border:1px solid #8888"></span>'
        for i, action in enumerate(actions)
    )
    strip = f'<div style="display:flex;align-items:flex-end;gap:1px;height:24px;margin:4px 0">{cells}</div>'
    legend = " ".join(
        f'<span style="display:inline-block;width:.8em;height:.8em;background:{colour};border:1px solid #8888"></span> '
        f"{kind}"
        for kind, colour in KIND_COLOURS.items()
        if any(action.kind == kind for action in actions)
    )
    return strip + f'<small style="opacity:.75">{legend}</small>'


def _height(action: Action) -> int:
    return max(4, round(22 * KIND_HEIGHTS[action.kind]))  # with a border of its own


def _measured(metric: Metric) -> str:
    interval = f" [{metric.interval[0]:.3g}, {metric.interval[1]:.3g}]" if metric.interval else ""
    reference = f", against {escape(metric.reference)}" if metric.reference else ""
    return f"{escape(metric.name)} {metric.value:.3g}{interval} over {metric.n} images{reference}"
