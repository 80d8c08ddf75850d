"""The final table of a finished run, as Markdown for this folder's README.

python -m benchmarks.final_table RUN
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flexiffusion.search.paired import Estimate
from flexsearch.report.rows import Row
from flexsearch.report.table import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    document = json.loads((parser.parse_args().run / "result.json").read_text(encoding="utf-8"))
    rows = []
    for values in document["rows"]:
        errors = {
            name: Estimate(error["mean"], error["interval"][0], error["interval"][1], error["worst_decile"], error["n"])
            for name, error in values.pop("errors").items()
        }
        rows.append(Row(**values, errors=errors))
    print(markdown(rows))
    print(f"\n{document['evaluations']} evaluations, {document['network_calls']} network calls of one image.")


if __name__ == "__main__":
    main()
