"""Where the files that the package ships lie."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
