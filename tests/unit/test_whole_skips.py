"""The suite's own rule: an area that skips as a whole fails the run, but for those that may (tests/conftest.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
AT_IMPORT = "import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass\n"
AT_RUN = (
    "import pytest\n@pytest.mark.skip(reason='nothing')\n@pytest.mark.parametrize('i', [1, 2])\ndef test_a(i): pass\n"
)
SOME = "import pytest\n@pytest.mark.skip(reason='nothing')\ndef test_a(): pass\ndef test_b(): pass\n"


def run(folder: Path, files: dict[str, str], *arguments: str) -> tuple[int, str]:
    tests = folder / "tests"
    for name, text in ({"conftest.py": CONFTEST.read_text(), "test_fine.py": "def test(): pass\n"} | files).items():
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    # without the plugins that are installed here: they would be loaded for seconds
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "workers", "words"),
    [(AT_IMPORT, "1", "skipped as a whole"), (AT_RUN, "1", "every test skipped"), (AT_RUN, "0", "every test skipped")],
)
def test_a_skipped_area_fails_the_run(text: str, workers: str, words: str, tmp_path: Path) -> None:
    code, output = run(tmp_path, {"hosts/test_area.py": text}, "-n", workers)
    assert code != 0 and words in output and "hosts/test_area.py" in output, output


@pytest.mark.parametrize("arguments", [("-k", "test_a"), ("tests/hosts/test_area.py::test_a",)])
def test_whoever_asks_for_one_test_knows_what_skips(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, output = run(tmp_path, {"hosts/test_area.py": SOME}, *arguments)
    assert code == 0, output


def test_single_tests_and_the_files_that_are_named_may_skip(tmp_path: Path) -> None:
    files = {"unit/test_ray_cluster.py": AT_IMPORT, "contract/test_ldm.py": AT_RUN, "hosts/test_area.py": SOME}
    code, output = run(tmp_path, files)
    assert code == 0 and "2 passed" in output, output
