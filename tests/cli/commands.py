"""Commands called as a user calls them, in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from flexsearch.cli import main


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def document(result: Result) -> Any:
    """What a command that succeeded wrote with --json."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)
