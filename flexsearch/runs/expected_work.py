"""How much each stage of a run takes, about: what the time left for the whole of it is told by."""

from __future__ import annotations

from flexiffusion.search import macro_steps, refining
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment

# The stages' labels, in their order; the last is `final_table.TIMING`.
REFERENCES, TABLES, SEARCH = "teacher and converged reference", "planner's tables", "search"
RIVALS, REFINING, FINAL_TABLE = "rivals on the search images", "solvers refined", "final table"

_TABLES = 8  # full calls for each level and image: its own, short and long steps from it, and how errors grow
_RACED = 0.6  # of a schedule's calls on all images, where clearly worse ones leave early and first steps are shared
_JUDGED = 8  # schedules' worth of calls on all search images for each asked speed-up: rivals that race, solvers fitted
_ROWS = 8  # of the final table for each asked speed-up: what was found and its rivals


def expected_work(experiment: Experiment) -> dict[str, float]:
    """By a stage's label, full network calls of one image. A guess: stages correct it as they go."""
    settings = experiment.settings
    targets = sum(settings.targets)
    steps = settings.steps + _ROWS * targets
    mean = targets / len(settings.targets)
    raced = _RACED if settings.racing else 1.0
    work = {REFERENCES: float(experiment.reference_calls)}
    if settings.uses_planner:
        at_once = min(experiment.batch, settings.images, macro_steps.IMAGES)
        work[TABLES] = float(_TABLES * experiment.step_error_levels * at_once)
    work[SEARCH] = settings.evaluations * settings.images * mean * raced
    work[RIVALS] = _JUDGED * settings.images * targets * raced
    if settings.fits:
        each = sum(refining.full_calls(target) for target in settings.targets if target < refining.FEW + 1)
        more = settings.evaluations // final_table.EVALUATIONS_EACH
        work[REFINING] = (1 + more) * experiment.refined_images * each
    work[FINAL_TABLE] = settings.held_out * steps
    work[final_table.TIMING] = final_table.FEWEST_TURNS * final_table.TIMED_IMAGES * steps
    return work
