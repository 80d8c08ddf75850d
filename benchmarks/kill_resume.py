"""kill -9 at ten random moments, then resume: is the front that of an uninterrupted run?

    python -m benchmarks.kill_resume --work FOLDER [--kills 10] [--seed 0]

One run is left alone. Another is killed again and again at moments drawn over half a whole run's length (loading,
references, search, final table) and resumed; when it ends before the moment came, a new one takes its place. Prints
each kill and the comparison of every interrupted run; exit code 1 if a front differs.
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
from typing import Any

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
    whole = arguments.work / "whole"
    started = time.monotonic()
    subprocess.run(command("run", *settings, "--out", str(whole)), check=True, capture_output=True)
    length = time.monotonic() - started
    print(f"whole run: {length:.0f} s, {trials(whole)} evaluations", flush=True)
    draw = random.Random(arguments.seed)
    interrupted, kills = [arguments.work / "killed-1"], 0
    while kills < arguments.kills:
        folder = interrupted[-1]
        begun = (folder / "settings.json").exists()
        call = command("resume", str(folder)) if begun else command("run", *settings, "--out", str(folder))
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment = draw.uniform(2, length / 2)
        try:
            process.wait(moment)
            interrupted.append(arguments.work / f"killed-{len(interrupted) + 1}")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            print(f"kill {kills}: {folder.name} after {moment:.1f} s; {trials(folder)} evaluations kept", flush=True)
    wanted, differ = front_of(whole), 0
    for folder in interrupted:
        if (folder / "settings.json").exists():
            subprocess.run(command("resume", str(folder)), check=True, capture_output=True)
            equal = front_of(folder) == wanted
            differ += not equal
            print(
                f"{folder.name}: front of {len(wanted)} points {'equal, to the last digit' if equal else 'DIFFERENT'}"
            )
    return 1 if differ else 0


def front_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["front"]


if __name__ == "__main__":
    raise SystemExit(main())
