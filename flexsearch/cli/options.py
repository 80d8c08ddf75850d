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
    click.option("--size", type=PictureSize(),
                 help="Picture size in pixels, such as 512 or 768x512. [default: the model's]"),
    click.option("--frames", type=int, help="Frames of a video. [default: the model's]"),
    click.option("--prediction", type=Word("auto", *PREDICTIONS), default="auto", show_default=True,
                 help="What the network predicts: epsilon or v_prediction; auto: what the file says."),
    click.option("--device", type=Word("auto", "cpu", "cuda", "mps"), default="auto", show_default=True,
                 help="A torch device; auto: the GPU if there is one."),
    click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True,
                 help="Precision of the network. auto: float16 on a GPU (transformers: bfloat16), float32 on the CPU."),
    click.option("--guidance", type=float, help="Classifier-free guidance scale. [default: the model's]"),
    click.option("--batch", type=int,
                 help="Images sampled together; halved where memory runs out. "
                 "[default: what fits into memory; profile: 1]"),
    click.option("--compile", "compiled", is_flag=True,
                 help="Compile the network with torch.compile, which takes minutes once."),
)  # fmt: skip
SOLVER = (
    click.option("--solver", type=OpenChoice((FITTED, *SOLVERS)),
                 help="The solver that schedules are sampled with. fitted: each gets a solver of its own, in its file; "
                 "or package.module:name. [default: fitted; with the papers' methods dpmpp_2m]"),
    click.option("--teacher-solver", type=OpenChoice(SOLVERS),
                 help="The solver that the teacher is sampled with; or package.module:name. "
                 "[default: that of --solver; if it is fitted: dpmpp_2m]"),
    click.option("--steps", type=int, default=30, show_default=True,
                 help="Steps of the teacher, the full-length sampling that schedules are compared with."),
)  # fmt: skip
SPEEDUP = (
    click.option("--speedup", "speedups", type=float, multiple=True, default=(2.0, 3.0, 5.0), show_default=True,
                 help="Speed-up to search for, in multiply-adds; may be given several times."),
)  # fmt: skip
FEATURES = (
    click.option("--features", type=Word("auto", "bundled", "model", "inception:"), default="auto", show_default=True,
                 metavar="MODULE",
                 help="Image features for feature errors and FID. model: the middle layers of the checkpoint's own "
                 "network; bundled: a classifier trained for the models tiny and pixel; inception:FILE; "
                 "package.module:Class; auto: bundled for those two, else model."),
    click.option("--prompts", "prompts_file", type=Place(), metavar="FILE",
                 help="Text file with one prompt per line; those below a line --- are held out. "
                 "[default: bundled prompts]"),
)  # fmt: skip
IMAGES = (
    *FEATURES,
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the noise and of the search."),
)  # fmt: skip


def engine_options(resumed: bool) -> tuple[Callable[[Any], Any], ...]:
    """Where candidates are evaluated. A resumed run goes on as it began, where nothing else is given."""
    as_before = "what the run was started with" if resumed else None
    kept = f" [default: {as_before}]" if resumed else ""
    return (
        click.option("--engine", type=click.Choice(ENGINES), default=None if resumed else "local",
                     show_default=not resumed,
                     help="local: one schedule after the other, in this process; ray: on many devices or "
                     f"machines.{kept}"),
        click.option("--ray-address", metavar="ADDRESS",
                     help="Address of a Ray cluster: host:port, or auto. "
                     f"[default: {as_before or 'Ray on this machine'}]"),
        click.option("--workers", type=int,
                     help="Copies of the model that work at the same time. "
                     f"[default: {as_before or 'one per GPU; without GPUs one per machine'}]"),
        click.option("--synchronous/--asynchronous", default=None if resumed else False, show_default=not resumed,
                     help=f"Keep the order of trials, so that the result equals that of the local engine.{kept}"),
    )  # fmt: skip


def with_options(*groups: tuple[Callable[[Any], Any], ...]) -> Callable[[Decorated], Decorated]:
    """Add groups of options to a command, in the order in which --help shows them."""

    def add(command: Decorated) -> Decorated:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


png_option = click.option(
    "--png", "picture", type=Place(), metavar="OUT",
    help="Write the pictures as one PNG, the teacher's in the first row.",
)  # fmt: skip
