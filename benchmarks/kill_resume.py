"""kill -9 at ten random moments, then resume: is the front that of an uninterrupted run?

    python -m benchmarks.kill_resume --work FOLDER [--kills 10] [--seed 0]

One run is left alone; the other is killed again and again at moments drawn over its whole length (loading, references,
search, final table) and resumed. Prints each kill and the comparison; exit code 1 if the fronts differ.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = ["--steps", "10", "--speedup", "2", "--speedup", "3", "--images", "8", "--held-out", "8"]


def command(verb: str, *rest: str) -> list[str]:
    return [sys.executable, "-m", "flexsearch", verb, *rest]


def trials(folder: Path) -> int:
    if not (folder / "study.db").exists():
        return 0
    with sqlite3.connect(folder / "study.db") as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--evaluations", default="120")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = [*SETTINGS, "--evaluations", arguments.evaluations]
    whole, killed = arguments.work / "whole", arguments.work / "killed"
    started = time.monotonic()
    subprocess.run(command("run", *settings, "--out", str(whole)), check=True, capture_output=True)
    length = time.monotonic() - started
    print(f"whole run: {length:.0f} s, {trials(whole)} evaluations")
    draw = random.Random(arguments.seed)
    # Between 2 s and what is left of the run at an even pace, so that kills fall everywhere in it.
    for kill in range(arguments.kills):
        started_already = (killed / "settings.json").exists()
        call = command("resume", str(killed)) if started_already else command("run", *settings, "--out", str(killed))
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment = draw.uniform(2, max(12.0, length * 0.5))
        try:
            process.wait(moment)
            print(f"kill {kill + 1}: the run ended before {moment:.1f} s; {trials(killed)} evaluations")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            print(f"kill {kill + 1}: after {moment:.1f} s; {trials(killed)} evaluations kept", flush=True)
    subprocess.run(command("resume", str(killed)), check=True, capture_output=True)
    fronts = [json.loads((folder / "result.json").read_text())["front"] for folder in (whole, killed)]
    equal = fronts[0] == fronts[1]
    print(f"fronts of {len(fronts[0])} points: {'equal, to the last digit' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
