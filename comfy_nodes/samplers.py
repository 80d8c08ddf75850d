"""What the host's samplers do with the list of noise levels, as far as a user should be told before sampling."""

from __future__ import annotations

import copy
from typing import Any

from ..flexiffusion.errors import ScheduleError
from ..flexiffusion.plan import Plan
from ..flexiffusion.solver import own_sampler

# One network evaluation at every listed level, by the name of the function without `sample_` (comfy/k_diffusion/
# sampling.py, comfy/extra_samplers/uni_pc.py); tests/hosts counts all of them.
_ONE_EACH = {
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_RF", "euler_ancestral_cfg_pp", "lms", "dpmpp_2m",
    "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm",
    "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "sa_solver",
    "unipc", "unipc_bh2",
}  # fmt: skip
# Two or three evaluations a step.
_SEVERAL_EACH = {
    "heun", "heunpp2", "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_RF", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "sa_solver_pece", "seeds_2",
    "seeds_3",
}  # fmt: skip
# This one takes the first and the last level and the length only, and chooses its own between.
_OWN_LEVELS = {"dpm_fast"}
# This one also chooses how many, by comparing what network calls return.
_ADAPTIVE = {"dpm_adaptive"}

_NAMES = {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}


def name_of(sampler: Any) -> str | None:
    """The host's name of a sampler object, such as `dpmpp_2m`; None: not one that can be told."""
    name = _function(sampler)
    return _NAMES.get(name, name) if name else None


def why_aside(sampler: Any) -> str | None:
    """Why no schedule can be laid over this sampler's steps, as the middle of a sentence; None: one can.

    A schedule must never cost more than the sampler alone. One that measures its own error would take the difference
    between a full and a partial call for an error of its own, and run more steps.
    """
    name = _function(sampler)
    return f"sampler {name} sets its own steps by comparing network calls" if name in _ADAPTIVE else None


def count_note(sampler: Any) -> str | None:
    """A sentence where the number of executed calls cannot be read off the schedule; None where it can, or where the
    sampler is not known: then `evaluations_note` counts."""
    name = _function(sampler)
    if name in _OWN_LEVELS:
        return (
            f"sampler {name} chooses noise levels of its own between the first and the last: a step does what the "
            "schedule says for its level"
        )
    if name in _SEVERAL_EACH:
        return (
            f"sampler {name} evaluates the network more than once a step: every evaluation does what the schedule says "
            "for its noise level"
        )
    return None


def evaluations_note(sampler: Any, evaluations: int, levels: int) -> str | None:
    """The same after sampling, of a sampler that is not known."""
    name = _function(sampler)
    if name in _ONE_EACH | _SEVERAL_EACH | _OWN_LEVELS or evaluations == levels:
        return None
    return (
        f"sampler {name_of(sampler) or type(sampler).__name__} evaluated the network {evaluations} times over {levels} "
        "noise levels: every evaluation did what the schedule says for its level"
    )


def with_own_solver(sampler: Any, plan: Plan, schedule: str) -> Any:
    """The host's sampler object with the schedule's solver in it; what the host does around it stays: noise, masks,
    inpainting, previews.

    Raises:
        ScheduleError: it is none of the objects that hold a sampling function.
    """
    if not hasattr(sampler, "sampler_function"):
        raise ScheduleError(
            schedule,
            f"it brings its own solver, but the sampler, a {type(sampler).__name__}, has no place for one",
            "Choose one of the host's own samplers, whichever: the schedule's solver runs in its place",
        )
    own = copy.copy(sampler)
    own.sampler_function, own.extra_options = own_sampler(plan.levels, plan.weights or ()), {}
    return own


def _function(sampler: Any) -> str:
    name = str(getattr(getattr(sampler, "sampler_function", None), "__name__", ""))
    return name.removeprefix("sample_").removesuffix("_function")
