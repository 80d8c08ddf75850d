"""Ratios of paired errors as the tables write them."""

from __future__ import annotations

from flexiffusion.search.paired import Errors, ratio_interval


def ratio_text(errors: Errors, rival: Errors, power: int = 1) -> str:
    """`0.27 (0.18-0.39)`: mean(errors) / mean(rival), with its 95 % paired-bootstrap interval, to a power."""
    return "{:.2f} ({:.2f}-{:.2f})".format(*(value**power for value in ratio_interval(errors, rival)))
