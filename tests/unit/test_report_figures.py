"""The pictures: real PNGs of the expected size and content. Their looks are checked by eye, not here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from flexiffusion.schedule import FULL, NULL, Action
from flexiffusion.strip import BLUE, ORANGE, legend
from flexsearch.report import figures
from flexsearch.report.figures import FrontPoint, front, samples, strip
from flexsearch.report.palette import GREY, KIND_LOOKS


def count_colour(path: Path, colour: str) -> int:
    """How many pixels have it."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    return int((np.abs(pixels - wanted).max(axis=2) <= 2).sum())


def has_colour(path: Path, colour: str) -> bool:
    return count_colour(path, colour) > 0


def test_front_draws_every_kind_and_leaves_zero_errors_out(tmp_path: Path) -> None:
    points = [FrontPoint(30, 0.0, "teacher")]
    for factor, kind in ((0.4, "found"), (1.0, "plain"), (0.7, "plain_searched"), (2.0, "deepcache")):
        points += [
            FrontPoint(c, factor * c**-3.0, kind, f"{30 / c:g}x $2", 0.9 * c**-3.0, c**-3.0)  # type: ignore[arg-type]
            for c in (6, 10, 20)
        ]
    path = tmp_path / "front.png"
    front(path, points, evaluated=[(5.0, 0.1), (7.0, 0.0)], title="tiny $\\x", teacher_cost=30)
    assert all(has_colour(path, KIND_LOOKS[p.kind][0]) for p in points[1:])
    assert list(tmp_path.iterdir()) == [path]  # no half-written file beside it


def test_what_the_search_saw_stands_on_axes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the mean root error of the search's images, the marks are mean errors of held-out ones."""
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    points = [FrontPoint(6, 1e-2, "found"), FrontPoint(10, 1e-3, "found")]
    front(tmp_path / "front.png", points, evaluated=[(6.0, 0.3), (7.0, 0.2)], evaluated_name="mean root error")
    (figure,) = drawn
    marks, cloud = figure.axes
    assert marks.get_ylabel() == "paired latent error to the teacher" and cloud.get_ylabel() == "mean root error"
    assert marks.get_ylim()[1] < 0.1 < cloud.get_ylim()[1]


def test_the_plain_mark_shows_through_that_of_the_searched_placement(tmp_path: Path) -> None:
    plain, other = FrontPoint(6, 1e-2, "plain"), FrontPoint(9, 1e-3, "found")
    front(tmp_path / "alone.png", [plain, other])
    front(tmp_path / "both.png", [plain, other, FrontPoint(6, 1e-2, "plain_searched")])
    assert count_colour(tmp_path / "both.png", BLUE) > 0.9 * count_colour(tmp_path / "alone.png", BLUE)


def test_front_without_any_point(tmp_path: Path) -> None:
    front(tmp_path / "front.png", [])
    assert (tmp_path / "front.png").stat().st_size > 0


def test_samples_keep_rows_and_columns(tmp_path: Path) -> None:
    red, blue = np.zeros((3, 8, 8, 3)), np.zeros((3, 8, 8, 3))
    red[..., 0], blue[..., 2] = 1.0, 2.0  # out of range: clipped, not wrapped
    path = tmp_path / "samples.png"
    samples(path, [("teacher", red), ("found", blue)])
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    rows_red = np.where((pixels == [255, 0, 0]).all(axis=2).any(axis=1))[0]
    rows_blue = np.where((pixels == [0, 0, 255]).all(axis=2).any(axis=1))[0]
    assert rows_red.max() < rows_blue.min()


def test_samples_have_no_empty_margin(tmp_path: Path) -> None:
    path = tmp_path / "samples.png"
    samples(path, [("teacher", np.zeros((8, 32, 32, 3))), ("2x found", np.zeros((8, 32, 32, 3)))])
    with Image.open(path) as picture:
        dark = (np.asarray(picture.convert("L")) < 200).any(axis=0)
    left, right = np.flatnonzero(dark)[[0, -1]]
    assert left < 30 and len(dark) - right < 30


@pytest.mark.parametrize("shapes", [[(2, 8, 8, 3), (3, 8, 8, 3)], [(2, 8, 8)], []])
def test_samples_of_unlike_shapes_are_refused(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must share one shape"):
        samples(tmp_path / "samples.png", [("a", np.zeros(shape)) for shape in shapes])


@pytest.mark.parametrize("count", [1, 50, 51, 250])
def test_strip_of_any_length(tmp_path: Path, count: int) -> None:
    actions = ([FULL, Action("partial", 0), NULL] * count)[:count]
    strip(tmp_path / "strip.png", actions, title="a name with $ signs")
    assert has_colour(tmp_path / "strip.png", BLUE)
    assert has_colour(tmp_path / "strip.png", ORANGE) == (count > 1)


def test_legend_names_what_occurs() -> None:
    actions = (FULL, Action("partial", 0, "linear"), FULL)
    assert [entry.letter for entry in legend(actions)] == ["F", "l"]
    assert GREY not in {entry.colour for entry in legend(actions)}
