"""`flexsearch report`: one page that needs nothing, readable in a real browser."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flexiffusion import codec
from flexiffusion.schedule import FULL, Action, Cost, ModelInfo, Provenance, Sampling, Schedule, Step, StepsPlan
from flexiffusion.search.paired import estimate
from flexsearch.cli import exit_codes
from flexsearch.cli.app import main
from flexsearch.report import pictures, plot
from flexsearch.report.rows import Row, RowKind, comparisons, rows_from

HOSTILE = '<script>alert("x")</script><img src=https://evil.example/x onerror=alert(1)>'


SPREAD = np.random.default_rng(0).lognormal(size=48)


def row(kind: RowKind, asked: float | None, cost: float, error: float, label: str = "", **more: Any) -> Row:
    means = {"latent/teacher": error, "latent/converged": error + 1e-4}
    images = {key: mean * SPREAD / SPREAD.mean() for key, mean in means.items()}
    estimates = {key: estimate(values) for key, values in images.items()}
    full = int(cost)
    return Row(label or f"{kind} {cost:g}", kind, asked, full, 3, cost, cost * 3e8, 20 / cost, cost / 50, 19 / cost,
               estimates, error * 10, 48, image_errors={key: tuple(values.tolist()) for key, values in images.items()},
               **more)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder, with a stranger's idea of a label."""
    folder = tmp_path / "run"
    (folder / "schedules").mkdir(parents=True)
    rows = [row("teacher", None, 20.0, 0.0)]
    for asked, cost, error in ((2.0, 9.9, 1e-4), (4.0, 4.8, 4e-3)):
        name = f"tiny-{asked:g}x"
        steps = [Step(14.0 - i, FULL if i % 2 == 0 else Action("partial", i % 9, "linear")) for i in range(10)]
        schedule = Schedule(
            name, ModelInfo("tiny-fashion", 9, "ab" * 32),
            Sampling("dpmpp_2m", "uniform", 20, 2.0, (32, 32), "epsilon"),
            StepsPlan(tuple(steps)), description=HOSTILE, cost=Cost(3e9, 20 / cost),
            provenance=Provenance("searched", "flexsearch 0.1.0", 0, 24),
        )  # fmt: skip
        codec.write(folder / "schedules" / f"{name}.json", schedule)
        file = f"/where/it/was/made/{name}.json"
        rows += [
            row("found", asked, cost, error, HOSTILE if asked == 2.0 else "", schedule_file=file),
            row("plain", asked, 20 / asked, error * 5),
            row("deepcache", asked, 20 / asked, error * 1.1),
        ]
        images = np.random.default_rng(int(asked)).random((4, 32, 32, 3))
        pictures.write(folder / "pictures" / name, images)
    pictures.write(folder / "pictures" / "teacher", np.random.default_rng(0).random((4, 32, 32, 3)))
    settings = {
        "model": "/home/somebody/a.safetensors",
        "method": "placement",
        "solver": "dpmpp_2m",
        "steps": 20,
        "reference": "teacher",
        "speedups": [2.0, 4.0],
        "storage": "postgresql://user:secret@db/x",
        "prompts": ["a cat"] * 500,
    }
    result = {
        "settings": settings,
        "objective": {"error": "latent", "statistic": "mean"},
        "evaluations": 24,
        "network_calls": 1234,
        "peak_memory": 1 << 30,
        "rows": [item.to_dict() for item in rows],
        "comparisons": [item.to_dict() for item in comparisons(tuple(rows))],
        "front": [{"error": 0.02, "cost": 5.0, "schedule": ""}, {"error": 0.001, "cost": 9.9, "schedule": ""}],
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model.json").write_text('{"family": "tiny-fashion", "sha256": "x"}')
    (folder / "costs.json").write_text('{"unit": "macs", "full": 3e8, "partial": {"-1": 6e5, "0": 1.6e7}}')
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


class Elements(html.parser.HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_rows_survive_their_json(run: Path) -> None:
    documents = json.loads((run / "result.json").read_text())["rows"]
    assert [item.to_dict() for item in rows_from(documents)] == documents


def test_the_page_loads_nothing_and_runs_nothing_of_a_strangers(run: Path) -> None:
    done = call(run, "--json")
    assert done.exit_code == 0, done.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    elements = Elements(page).found
    for tag, attributes in elements:
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, value[:80])
        assert not [name for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in elements].count("script") == 1
    assert not [tag for tag, _ in elements if tag in ("link", "iframe", "object", "base")]
    assert "&lt;script&gt;alert" in page, "the label is there, as a text"
    assert "secret" not in page and page.count("a cat") == 0 and "/home/somebody" not in page
    assert '<td data-name="value">a.safetensors</td>' in page and '<td data-name="value">2, 4</td>' in page


def test_what_is_shared_of_a_run_tells_how_but_nothing_private(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["presets", "share", str(run), "--out", str(tmp_path / "out"), "--author", "Me"])
    assert done.exit_code == 0, done.output
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert '"prompts": 500' in readme and '"solver": "dpmpp_2m"' in readme and "a cat" not in readme
    assert "secret" not in readme and "/home/somebody" not in readme
    assert "| 2x |" in readme, "the final table"


def test_its_figures_are_written_as_png_too(run: Path) -> None:
    files = json.loads(call(run, "--json").stdout)["files"]
    strips = [Path(file) for file in files if "strips" in file]
    assert [path.name for path in strips] == ["tiny-2x.png", "tiny-4x.png"]
    with Image.open(strips[0]) as strip:
        assert codec.loads(strip.info["flexiffusion"].encode()).name == "tiny-2x"


def test_out_and_open(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    out = tmp_path / "page.html"
    assert call(run, "--out", out, "--open").exit_code == 0
    assert shown == [out.as_uri()] and out.is_file()
    assert call(run, "--out", tmp_path / "none" / "x.html").exit_code == exit_codes.USAGE


def test_strips_lie_beside_the_page_and_the_run_is_left_alone(run: Path, tmp_path: Path) -> None:
    """Its folder may be somebody else's, which cannot be written."""
    before = sorted(run.rglob("*"))
    (tmp_path / "elsewhere").mkdir()
    assert call(run, "--out", tmp_path / "elsewhere" / "page.html").exit_code == 0
    assert [path.name for path in sorted((tmp_path / "elsewhere" / "strips").iterdir())] == [
        "tiny-2x.png",
        "tiny-4x.png",
    ]
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"rows": [{}]}', "it lacks 'errors'"), ('{"rows": []}', "it lacks 'settings'"), ("{}", "it lacks 'rows'"),
     ("[]", "it lacks what a result has"), ('{"rows"', "it cannot be read")],
)  # fmt: skip
def test_what_a_result_lacks_is_named(run: Path, text: str, words: str) -> None:
    (run / "result.json").write_text(text)
    done = call(run)
    assert done.exit_code == exit_codes.RUN_FOLDER
    assert f"{run / 'result.json'}: {words}" in done.stderr and "flexsearch resume" in done.stderr


def test_what_is_no_finished_run(run: Path, tmp_path: Path) -> None:
    assert "there is no run" in call(tmp_path).stderr
    (run / "result.json").unlink()
    unfinished = call(run)
    assert unfinished.exit_code == exit_codes.RUN_FOLDER and "flexsearch resume" in unfinished.stderr
    (run / "result.json").write_text('{"rows": [{}]}')
    assert call(run).exit_code == exit_codes.RUN_FOLDER


def test_marks_lie_inside_the_plot_whatever_the_errors() -> None:
    for errors in ((1e-4, 1e-3), (1.0, 1.1), (0.0, 0.0), (1e-12, 1e3)):
        rows = [row("teacher", None, 20.0, 0.0)] + [row("found", 2.0, 5.0 * i, e) for i, e in enumerate(errors, 1)]
        for panel in plot.front(rows, [(3.0, 0.5), (4.0, 0.0)], 20.0).panels:
            for mark in panel.marks:
                assert plot.LEFT <= mark.x <= plot.WIDTH - plot.RIGHT
                for y in (mark.y, mark.low, mark.high):
                    assert plot.TOP - 1 <= y <= plot.HEIGHT - plot.BOTTOM + 1
            assert panel.ticks or not panel.marks


def test_what_the_search_minimised_has_a_plot_of_its_own(run: Path) -> None:
    """Its errors are of other images and of another statistic than the marks'."""
    assert call(run).exit_code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    panels = {part.partition('"')[0]: part for part in page.split('<g data-panel="')[1:]}
    assert list(panels) == ["latent/teacher", "latent/converged", "searched"]
    assert {key: part.count('fill="#9A9A9A"') for key, part in panels.items()} == {
        "latent/teacher": 0,
        "latent/converged": 0,
        "searched": 2,
    }
    assert '<option value="searched">mean root latent error, on the search images</option>' in page


def test_the_first_cards_name_the_nearest_rival_that_was_measured(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["rows"] = [row for row in result["rows"] if row["kind"] != "plain"]
    result["rows"] = [row for row in result["rows"] if row["speedup_asked"] != 4.0 or row["kind"] == "found"]
    (run / "result.json").write_text(json.dumps(result))
    assert call(run).exit_code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    first, second = page.partition('<ul class="summary">')[2].partition("</ul>")[0].split("</li>")[:2]
    assert "error against DeepCache uniform: <span" in first
    assert "no rival of this cost was measured" in second


def test_pictures_are_replaced_whole(tmp_path: Path) -> None:
    pictures.write(tmp_path / "x", np.zeros((12, 8, 8, 3)))
    pictures.write(tmp_path / "x", np.ones((11, 8, 8, 3)))
    images = pictures.read(tmp_path / "x")
    assert len(images) == 11 and images[10].getpixel((0, 0)) == (255, 255, 255)
    assert pictures.data_uri(Image.new("RGB", (1000, 500))).startswith("data:image/jpeg")


@pytest.fixture(scope="module")
def page() -> Iterator[chromium.Page]:
    with chromium.page() as tab:
        yield tab


@pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium: apt-get install chromium")
class TestInTheBrowser:
    def opened(self, page: chromium.Page, run: Path, *size: int, mobile: bool = False) -> chromium.Page:
        assert call(run).exit_code == 0
        page.events.clear()
        page.open(run / "report.html", *size, mobile=mobile)
        return page

    def test_no_network_and_no_complaints(self, page: chromium.Page, run: Path) -> None:
        self.opened(page, run, 1200, 900)
        assert page.requests() == [(run / "report.html").as_uri()]
        assert page.complaints() == []
        assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert page.run("document.images.length") == 2 * 2 * 4

    def test_the_slider_moves_the_line_in_its_own_card(self, page: chromium.Page, run: Path) -> None:
        self.opened(page, run, 1200, 900)
        page.run(
            "(s => { s.value = 20; s.dispatchEvent(new Event('input')) })(document.querySelectorAll('.cut input')[1])"
        )
        clips = page.run(
            "[...document.querySelectorAll('.card')].map(c => getComputedStyle(c.querySelector('img + img')).clipPath)"
        )
        assert [clip.replace(" ", "") for clip in clips] == ["inset(0px0px0px50%)", "inset(0px0px0px20%)"]

    def test_marks_tell_their_figures_and_kinds_can_be_hidden(self, page: chromium.Page, run: Path) -> None:
        self.opened(page, run, 1200, 900)
        visible = "[...document.querySelectorAll('.mark')].filter(m => m.getClientRects().length).length"
        assert page.run(visible) == 6, "one panel, without the teacher, which has no error to itself"
        page.run("document.querySelector('.mark[data-kind=plain]').dispatchEvent(new Event('focus'))")
        assert "fewer plain steps" in page.run("document.querySelector('#detail').textContent")
        page.run("document.querySelector('[data-kind-toggle=deepcache]').click()")
        assert page.run(visible) == 4
        page.run("(s => { s.value = 'latent/converged'; s.dispatchEvent(new Event('change')) })(error)")
        assert page.run(visible) == 5, "the teacher has one to the converged solution"

    def test_the_saved_file_is_the_schedule(self, page: chromium.Page, run: Path) -> None:
        self.opened(page, run, 1200, 900)
        address = page.run("document.querySelector('a[download]').href")
        text = page.run(f"atob({json.dumps(address.partition(',')[2])})")
        assert text.encode() == (run / "schedules" / "tiny-2x.json").read_bytes()
        assert page.run("document.querySelector('textarea').value") == text

    def test_a_phone_shows_it_without_scrolling_sideways(self, page: chromium.Page, run: Path) -> None:
        self.opened(page, run, 360, 740, mobile=True)
        page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.run("document.documentElement.scrollWidth") <= 360
        sizes = page.run(
            "[...document.querySelectorAll('svg text')].filter(t => t.getClientRects().length)"
            ".map(t => t.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 10, "the plot's words stay readable"
        keys = page.run("[...document.querySelectorAll('.keys span')].map(k => k.getBoundingClientRect().height)")
        assert len(keys) == 2 * 3 and max(keys) < 30, "a colour and its words stay on one line"
        assert page.run("getComputedStyle(document.querySelector('#row-1 td + td')).display") == "grid"
