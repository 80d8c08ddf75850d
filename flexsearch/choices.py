"""The words that settings take. Nothing heavy is imported for them: help, completion and refusals come at once."""

from __future__ import annotations

from typing import Literal, get_args

MethodName = Literal["placement", "flexiffusion", "autodiffusion", "joint"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
EngineName = Literal["local", "ray"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
CostName = Literal["macs", "latency", "units"]
COSTS: tuple[CostName, ...] = get_args(CostName)
SOLVERS = ("ddim", "plms", "dpmpp_2m", "euler", "uni_pc")
FITTED = "fitted"  # not one of them: every schedule has a solver of its own, fitted to the teacher
PREDICTIONS = ("epsilon", "v_prediction")
DTYPES = ("auto", "float32", "float16", "bfloat16")

# The core's own, which are beside what they name there, with numpy: a test holds the two together.
SPACINGS = ("uniform", "karras", "logsnr", "quadratic")
ERRORS = ("latent", "features", "lpips", "rfid", "fid")
STATISTICS = ("mean", "worst-decile")
