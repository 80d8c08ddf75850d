"""The command line. Importing this is cheap: every heavy library is imported inside the command that needs it."""

from __future__ import annotations

import sys

try:
    from flexsearch.cli.app import main
except ModuleNotFoundError as missing:
    if missing.name != "click":
        raise
    # The base install has no dependencies, because it serves the hosts; the tool's libraries come with the extra.
    print('flexsearch: not installed whole. Run: pip install "flexiffusion[search]"', file=sys.stderr)
    raise SystemExit(2) from None

__all__ = ["main"]
