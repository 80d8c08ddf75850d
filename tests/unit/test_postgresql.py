"""The search loop on a PostgreSQL server: one driver a study, and nothing is lost when the server goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgresql_server import Server, running
from search_fixtures import TABLE, FormulaEvaluator
from test_driver import METHODS, go, trials_of

from flexiffusion.search.racing import Judgement
from flexsearch.errors import RunFolderError
from flexsearch.runs.driver import search
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings

pytestmark = pytest.mark.database
pytest.importorskip("psycopg")

EVALUATIONS, AT = 14, 6


class Until(FormulaEvaluator):
    """Something happens when so many candidates have been judged."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.happens = happens

    def judge(self, *arguments: object) -> Judgement:  # type: ignore[override]
        if len(self.evaluated) == AT:
            self.happens()
        return super().judge(*arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as made:
        yield made


def drive(
    folder: Path, settings: Settings, evaluator: FormulaEvaluator
) -> list[tuple[int, dict[str, int], list[float]]]:
    """What `flexsearch run` does with the trial store."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    with run.locked(), run.guarded(settings):
        sampler = MethodSampler(METHODS["placement"], 0)
        study = run.study(settings, sampler)
        search(study, sampler, evaluator, TABLE, EVALUATIONS, True, lambda *_: None)
        return trials_of(study)


def test_one_driver_and_a_server_that_goes_down(server: Server, tmp_path: Path) -> None:
    settings = Settings(storage=server.url())
    mine, theirs = tmp_path / "a" / "run", tmp_path / "b" / "run"

    def meanwhile() -> None:
        with pytest.raises(RunFolderError, match="another driver works on the study 'run'"):
            drive(theirs, settings, FormulaEvaluator())
        server.control("-m", "immediate", "stop")

    with pytest.raises(RunFolderError, match=r"team:\*\*\*@.*the trial store was lost .*flexsearch resume"):
        drive(mine, settings, Until(meanwhile))
    server.start()
    with pytest.raises(RunFolderError, match="a study 'run' of another run"):
        drive(theirs, settings, FormulaEvaluator())
    again = FormulaEvaluator()
    resumed = drive(mine, settings, again)
    assert len(again.evaluated) == EVALUATIONS - AT
    assert resumed == trials_of(go(tmp_path / "whole", METHODS["placement"], FormulaEvaluator(), EVALUATIONS))
