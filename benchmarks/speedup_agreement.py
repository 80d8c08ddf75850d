"""The speed-up that `flexsearch run` prints against what `flexsearch evaluate` then measures, for every found schedule.

    python -m benchmarks.speedup_agreement --work FOLDER [--model FILE --size 64] [--evaluations 45]

Each command is a process of its own, as a user calls them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.layouts import add_device_options, described


def called(*arguments: str) -> Any:
    command = [sys.executable, "-m", "flexsearch", *arguments, "--json"]
    made = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(made.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--size")
    parser.add_argument("--evaluations", default="45")
    parser.add_argument("--images", default="4")
    parser.add_argument("--held-out", default="8")
    add_device_options(parser, wall_only=True)
    options = parser.parse_args()
    model = ["--model", options.model, "--device", options.device, *(["--size", options.size] if options.size else [])]
    run = called("run", *model, "--evaluations", options.evaluations, "--images", options.images,
                 "--held-out", options.held_out, "--out", str(options.work / "run"))  # fmt: skip
    print(f"{Path(options.model).name}; {described(options)}.\n")
    print("| schedule | multiply-adds | run | evaluate | evaluate / run |\n|---|---|---|---|---|")
    for row in (row for row in run["rows"] if row["kind"] == "found"):
        judged = called("evaluate", row["schedule_file"], *model, "--images", options.held_out)
        again = next(item for item in judged["rows"] if item["kind"] == "found")
        first, second = row["speedup_measured"], again["speedup_measured"]
        print(f"| {row['label']} | {row['speedup_macs']:.2f}x | {first:.2f}x | {second:.2f}x | {second / first:.3f} |")


if __name__ == "__main__":
    main()
