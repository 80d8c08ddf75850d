"""What to do with a run's result: one sentence for each asked speed-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexsearch.report.rows import KIND_WORDS, RIVALS, UNCLEAR, Row, RowKind, Verdict, comparisons, groups


def advice(rows: Sequence[Row], error: str) -> list[str]:
    """A sentence for each asked speed-up that has a found schedule: use it, or keep what could be typed by hand.

    It is used where it is better than fewer plain steps, and not clearly worse than any other rival; `error` is the
    kind of error that decides, such as "latent/teacher".
    """
    sentences = []
    words = {(c.speedup_asked, c.rival): c.verdict for c in comparisons(tuple(rows)) if c.error == error}
    for speedup, members in groups(tuple(rows)):
        found = next((row for row in members if row.kind == "found"), None)
        if speedup is None or found is None:
            continue
        met = {rival: words[speedup, rival] for rival in RIVALS if (speedup, rival) in words}
        sentences.append(f"{speedup:.3g}x: {_sentence(found, members, met)}")
    return sentences


def _sentence(found: Row, members: Sequence[Row], met: Mapping[RowKind, Verdict]) -> str:
    if not met:
        return "there is no rival at this cost to compare it with; look at its pictures"
    if "too few images" in met.values():
        return "too few images to say; measure again with --held-out 32 or more"
    worse = [rival for rival, word in met.items() if word == "worse"]
    if worse:
        better = next(row for row in members if row.kind == worse[0])
        return f"use {better.label} ({KIND_WORDS[better.kind]}), which is better than what was found"
    plain = next((row for row in members if row.kind == "plain"), None)
    if plain is not None and met.get("plain") != "better":
        return f"keep {plain.label}: what was found is not clearly better"
    unclear = [KIND_WORDS[row.kind] for row in members if met.get(row.kind) == UNCLEAR]
    beside = f", but not clearly better than {' and '.join(unclear)}" if unclear else ""
    than = "every rival" if not unclear else "fewer plain steps"
    return f"use {found.schedule_file or found.label}; it is better than {than} at its cost{beside}"
