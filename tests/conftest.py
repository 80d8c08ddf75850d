"""For every test: seeds, no time lost to garbage collection, and that no area of the suite is skipped in silence."""

from __future__ import annotations

import gc
import random
import sys
from collections import defaultdict
from collections.abc import Generator

import pytest

# Files that may skip as a whole in the default run, and what each needs.
MAY_SKIP = {
    "cli/test_cluster.py": "ray, the extra cluster",
    "cli/test_team_store.py": "psycopg, the extra postgresql",
    "contract/test_ldm.py": "the original ldm code",
    "unit/test_postgresql.py": "psycopg, the extra postgresql",
    "unit/test_ray_cluster.py": "ray, the extra cluster",
}
REMEDY = "Install what it needs, or name the file in MAY_SKIP of tests/conftest.py"

_outcomes: defaultdict[str, set[str]] = defaultdict(set)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """No test's result depends on which ran before it in the same process."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_collection_finish() -> None:
    """What collecting imported stays to the end. Each of the many full collections of garbage that the product asks for
    looked through all of it, half a million objects, for a quarter of a second."""
    gc.collect()
    gc.freeze()


def _may_skip(nodeid: str) -> bool:
    return any(nodeid.partition("::")[0].endswith(f"/{name}") for name in MAY_SKIP)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips while it is imported is an error of the run."""
    report = yield
    if report.skipped and isinstance(collector, pytest.Module) and not _may_skip(report.nodeid):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped as a whole ({reason}). {REMEDY}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid.partition("::")[0]].add(report.outcome)


def _skipped_whole(config: pytest.Config) -> list[str]:
    """Files of which every selected test skipped. Who selects tests by name or marker is told so by pytest alone."""
    selected = config.option.keyword or any("::" in argument for argument in config.args)
    of_a_part = hasattr(config, "workerinput")  # one worker sees a share of each file only
    if selected or of_a_part or config.option.markexpr != _default_markers(config):
        return []
    return sorted(name for name, found in _outcomes.items() if found == {"skipped"} and not _may_skip(name))


def _default_markers(config: pytest.Config) -> str:
    options = config.getini("addopts")
    return options[options.index("-m") + 1] if "-m" in options else ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped_whole(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in _skipped_whole(config):
        terminalreporter.write_line(f"ERROR {name}: every test skipped. {REMEDY}", red=True)
