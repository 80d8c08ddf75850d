"""Whether a schedule fits a network, and what it was made for where it does not fit a sampling.

A wrong network is refused; other settings only deserve a word with the numbers (what users asked of such tools: never
run with wrong constants in silence).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn

from .errors import ModelMismatch
from .families import FAMILIES, markers, recognised
from .layouts import Layout, find_layout
from .layouts.transformer import TransformerLayout
from .metadata import ModelInfo
from .noise import NoiseKind
from .plan import TOLERANCE
from .presets import Preset, for_family
from .schedule import Schedule, SegmentsPlan
from .summary import sampling_text

UNKNOWN = "unknown"  # family of a network that `families` does not have

# Two names of one solver: DDIM without noise is Euler's method in the noise level (arXiv 2206.00364, section 4).
_SAME_SAMPLER = {"ddim": "euler"}


def family_of(network: nn.Module) -> str | None:
    """The family of a loaded network; None: not one of `families.FAMILIES`.

    A U-Net is told by its text attention and branches, a transformer by the number and the width of its blocks.

    Raises:
        ModelMismatch: not a network that can be cut.
    """
    layout = find_layout(network)
    if isinstance(layout, TransformerLayout):
        has = {name for name in markers() if getattr(network, name, None) is not None}
        return recognised(_width(layout), layout.branches, layout.lists, has)
    widths = _text_widths(network)
    return recognised(widths[0], layout.branches) if len(widths) == 1 else None


def model_info(network: nn.Module) -> ModelInfo:
    """What a schedule file says of a loaded network; without its fingerprint."""
    try:
        layout = find_layout(network)
    except ModelMismatch:
        return ModelInfo(UNKNOWN, 1)
    blocks = sum(layout.lists) if isinstance(layout, TransformerLayout) else None
    return ModelInfo(family_of(network) or UNKNOWN, layout.branches, blocks=blocks)


def _text_widths(network: nn.Module) -> list[int]:
    """Channels of the text embeddings that a U-Net's cross-attentions read; 0 for one that does not tell."""
    keys = (module for name, module in network.named_modules() if name.endswith("attn2.to_k"))
    return sorted({int(getattr(key, "in_features", 0)) for key in keys})


def _described(network: nn.Module, layout: Layout) -> str:
    """What tells a network of an unknown family from those that are known."""
    if isinstance(layout, TransformerLayout):
        return f"{layout.branches + 1} blocks of width {_width(layout)}"
    widths = " and ".join(str(width) for width in _text_widths(network))
    return f"{layout.branches} branches and " + (f"text of width {widths}" if widths else "no text")


def _width(layout: Layout) -> int:
    """Channels of a transformer's tokens: what most linear layers of its first block read."""
    widths = (getattr(module, "in_features", None) for module in layout.units[0].modules())
    read = Counter(int(width) for width in widths if width is not None)
    return max(read, key=lambda width: (read[width], -width), default=0)


def distilled(network: nn.Module) -> str | None:
    """A sentence where a loaded network itself says that it is distilled to a few steps; None: it does not.

    FLUX.1 schnell has the blocks of FLUX.1 dev, but is told no guidance scale. Other distilled models (Turbo,
    Lightning, Klein without *base*) are the same network as what they were made of, with other weights.
    """
    config, params = (getattr(network, name, None) for name in ("config", "params"))
    # as diffusers, ComfyUI and Forge keep it
    told = [
        getattr(config, "guidance_embeds", None),
        getattr(params, "guidance_embed", None),
        getattr(network, "guidance_embed", None),
    ]
    if not any(flag is False for flag in told):
        return None
    try:
        family = family_of(network)
    except ModelMismatch:
        return None
    if family != "flux":
        return None
    return (
        "the loaded network takes no guidance scale, like FLUX.1 schnell and unlike FLUX.1 dev: if it is distilled "
        "to 4 steps, there is no step to save, and no schedule should be used"
    )


def require_noise(schedule: Schedule, noise: NoiseKind, network: str) -> None:
    """Refuses a schedule whose noise levels mean something else than the host's.

    noise: what the host's levels are: k-diffusion's sigmas ("vp"), or those of a flow model, from 1 to 0 ("flow")
    network: what the errors call it, such as its class

    Raises:
        ModelMismatch: they are of two kinds.
    """
    wanted = schedule.plan.noise
    if wanted != noise:
        words = {"vp": "sigmas of a diffusion model", "flow": "noise levels of a flow model, from 1 to 0"}
        raise ModelMismatch(
            f"schedule {schedule.name}: made for {words[wanted]}, but {network} is sampled over {words[noise]}. "
            "Use a schedule made for this model"
        )


def require_fit(schedule: Schedule, network: nn.Module, presets: Iterable[Preset] = ()) -> None:
    """Refuses a schedule that was made for another network.

    presets: what else there is, so that the refusal can name those that fit.

    Raises:
        ModelMismatch: another family, or another number of branches, or without a unit that the schedule drops; or not
            a network that can be cut.
    """
    layout = find_layout(network)
    family, branches = family_of(network), layout.branches
    made_for = schedule.model
    if family is None and made_for.family in FAMILIES and branches == made_for.branches:
        # many networks have as many blocks as another family's (the refiner of SDXL as many as SD1.5): unknown is
        # not the same
        raise ModelMismatch(
            f"schedule {schedule.name}: made for {made_for.family}, but the model is a {type(network).__name__} of an "
            f"unknown family with {_described(network, layout)}. Use a schedule made for this model"
        )
    if branches != made_for.branches or (family is not None and family != made_for.family):
        found = f"{family or 'an unknown one'} with {branches} branches"
        fitting = sorted({p.path.stem for p in for_family(tuple(presets), family)}) if family else []
        remedy = f"Schedules that fit: {', '.join(fitting)}" if fitting else "Use a schedule made for this model"
        raise ModelMismatch(
            f"schedule {schedule.name}: made for {made_for.family} with {made_for.branches} branches, "
            f"but the model is {found}. {remedy}"
        )
    try:
        layout.named({name for action in schedule.plan.actions() for name in action.drop})
    except ModelMismatch as error:
        raise ModelMismatch(f"schedule {schedule.name}: {error}") from None


def misfit(
    schedule: Schedule,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    size: tuple[int, int] | None = None,
    prediction: str | None = None,
    levels: Sequence[float] | None = None,
) -> str | None:
    """One sentence on how these settings differ from those that the schedule was made with; None: they do not.

    Whatever the schedule leaves open, or the host cannot tell (None), is not compared; nor are guidance, size and
    noise levels where nothing was measured at them: a hand-made rule is no better at those that it was written for.

    size:   width and height of the picture in pixels
    levels: the host's own noise levels, falling, without the final 0
    """
    made, plan = schedule.sampling, schedule.plan
    measured = schedule.provenance.kind == "searched" or bool(schedule.metrics)
    if not measured:
        cfg = size = levels = None
    here: list[str] = []
    if sampler and made.sampler and _solver(sampler) != _solver(made.sampler):
        here.append(f"sampler {sampler}")
    if steps and isinstance(plan, SegmentsPlan) and steps != made.steps:
        here.append(f"{steps} steps")
    if cfg is not None and made.cfg is not None and abs(cfg - made.cfg) > 1e-6:
        here.append(f"cfg {cfg:g}")
    if size and made.size and size != made.size:
        here.append(f"{size[0]} x {size[1]} pixels")
    if prediction and made.prediction and prediction != made.prediction:
        here.append(f"{prediction} model")
    if levels and schedule.levels is not None and not _alike(levels, schedule.levels):
        here.append("other noise levels (scheduler)")
    if not here:
        return None
    differs = ", ".join(here)
    unmeasured = ". Its quality was not measured there" if measured else ""
    return f"{schedule.name} was made for {made_for(schedule)}; here: {differs}{unmeasured}"


def made_for(schedule: Schedule) -> str:
    """What the schedule was made with, and how good it was measured to be: "dpmpp_2m, karras, 30 steps, cfg 7, ..."."""
    known = [sampling_text(schedule.sampling)]
    if schedule.metrics:
        measured = schedule.metrics[0]
        known.append(f"{measured.name} {measured.value:.3g} over {measured.n} images")
    elif schedule.provenance.kind == "heuristic":
        known.append("a hand-made rule")
    return ", ".join(known)


def _solver(sampler: str) -> str:
    return _SAME_SAMPLER.get(sampler, sampler)


def _alike(levels: Sequence[float], others: Sequence[float]) -> bool:
    return len(levels) == len(others) and all(
        abs(a - b) <= 10 * TOLERANCE * max(a, b) for a, b in zip(levels, others, strict=True)
    )
