"""Photographs a run's report in headless Chromium, wide and on a phone, for the documentation.

python tests/report_pictures.py RUN FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import chromium


def photograph(report: Path, folder: Path) -> None:
    with chromium.page() as page:
        page.open(report, 1000, 1660)
        page.run("document.querySelector('.mark[data-kind=found]').dispatchEvent(new Event('focus'))")
        page.picture(folder / "report.png")
        page.open(report, 390, 844, mobile=True)
        page.run("document.querySelector('.card').scrollIntoView()")
        page.picture(folder / "report-phone.png")


if __name__ == "__main__":
    photograph(Path(sys.argv[1]).absolute() / "report.html", Path(sys.argv[2]))
