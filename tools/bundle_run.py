"""The found schedules of a run as bundled presets.

    python -m tools.bundle_run RUN schedules

Each file is named as presets are: family, the teacher's solver, its steps, the asked speed-up. An older one of that
name is replaced: whoever asks for it by its id gets the better one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from flexiffusion import codec
from flexsearch.choices import FITTED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    for path in sorted((options.run / "schedules").glob("*.json")):
        schedule = codec.read(path)
        name = schedule.name.replace(f"-{FITTED}-", f"-{schedule.sampling.sampler}-")
        codec.write(options.folder / f"{name}.json", replace(schedule, name=name))
        print(options.folder / f"{name}.json")


if __name__ == "__main__":
    main()
