"""Options that several commands share: which model, how it is sampled, on which images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from flexsearch.choices import DTYPES, ENGINES, FITTED, PREDICTIONS, SOLVERS
from flexsearch.cli.kinds import OpenChoice, PictureSize, Place, Word

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


MODEL = (
    click.option("--model", type=Place(words=("tiny", "pixel", "emoji")), default="tiny", show_default=True,
                 metavar="MODEL",
                 help="A .safetensors checkpoint, a diffusers folder, or a bundled model: tiny (text), pixel (DDPM), "
                 "emoji (a transformer)."),
    click.option("--size", type=PictureSize(), help="Picture size in pixels, 512 or 768x512. [default: the model's]"),
    click.option("--frames", type=int, help="Frames of a video. [default: the model's]"),
    click.option("--prediction", type=Word("auto", *PREDICTIONS), default="auto", show_default=True,
                 help="What the network predicts: epsilon, v_prediction; auto: as the file says."),
    click.option("--device", type=Word("auto", "cpu", "cuda", "mps"), default="auto", show_default=True,
                 help="A torch device; auto: the GPU if there is one."),
    click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True, help="auto: by device."),
    click.option("--guidance", type=float, help="Classifier-free guidance scale. [default: the model's]"),
    click.option("--batch", type=int,
                 help="Images sampled together; halved where memory runs out. [default: by memory; profile: 1]"),
    click.option("--compile", "compiled", is_flag=True, help="Hand the network to torch.compile."),
)  # fmt: skip
SOLVER = (
    click.option("--solver", type=OpenChoice((FITTED, *SOLVERS)),
                 help="What every schedule is sampled with; fitted: a solver of its own, which its file brings; or "
                 "package.module:name. [default: fitted; of the papers' methods: dpmpp_2m]"),
    click.option("--teacher-solver", type=OpenChoice(SOLVERS),
                 help="What the teacher is sampled with; or package.module:name. "
                 "[default: as --solver; where that is fitted: dpmpp_2m]"),
    click.option("--steps", type=int, default=30, show_default=True, help="Steps of the teacher."),
)  # fmt: skip
SPEEDUP = (
    click.option("--speedup", "speedups", type=float, multiple=True, default=(2.0, 3.0, 5.0), show_default=True,
                 help="Asked speed-up in multiply-adds; give it several times."),
)  # fmt: skip
FEATURES = (
    click.option("--features", type=Word("auto", "bundled", "model", "inception:"), default="auto", show_default=True,
                 metavar="MODULE",
                 help="What feature errors and relative FID are of. model: the checkpoint's own network, halfway; "
                 "bundled: a classifier of what tiny and pixel draw; inception:FILE; package.module:Class; auto: "
                 "bundled for those two, else model."),
    click.option("--prompts", "prompts_file", type=Place(), metavar="FILE",
                 help="Prompts, one a line; those below a line --- are held out. [default: bundled ones]"),
)  # fmt: skip
IMAGES = (
    *FEATURES,
    click.option("--seed", type=int, default=0, show_default=True, help="Of the noise and of the search."),
)  # fmt: skip


def engine_options(resumed: bool) -> tuple[Callable[[Any], Any], ...]:
    """Where candidates are evaluated. A resumed run goes on as it began, where nothing else is given."""
    as_before = "as the run has it" if resumed else None
    kept = f" [default: {as_before}]" if resumed else ""
    return (
        click.option("--engine", type=click.Choice(ENGINES), default=None if resumed else "local",
                     show_default=not resumed,
                     help=f"local: one after the other, here; ray: on many devices or machines.{kept}"),
        click.option("--ray-address", metavar="ADDRESS",
                     help=f"Of a Ray cluster: host:port, or auto. [default: {as_before or 'Ray on this machine'}]"),
        click.option("--workers", type=int,
                     help=f"Models at a time. [default: {as_before or 'one for each GPU, or else machine'}]"),
        click.option("--synchronous/--asynchronous", default=None if resumed else False, show_default=not resumed,
                     help=f"Keep the order of trials, so that the search equals the local one.{kept}"),
    )  # fmt: skip


def with_options(*groups: tuple[Callable[[Any], Any], ...]) -> Callable[[Decorated], Decorated]:
    """Add groups of options to a command, in the order in which --help shows them."""

    def add(command: Decorated) -> Decorated:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add
