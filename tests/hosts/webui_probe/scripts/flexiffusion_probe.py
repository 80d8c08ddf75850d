"""Test-only extension: counts what the real program's network really executes, by its own hooks, and tells over HTTP.

A full call runs a convolution in the middle block, every call runs the last convolution: counting their executions
needs nothing of what is tested.
"""

import importlib
import os
import sys
from collections import Counter

import torch
from modules import script_callbacks, scripts, shared

# Forge and its kin recognise models by their width; the narrow one of the tests is SD1.5 in every other respect
for name in ("huggingface_guess.model_list", "ldm_patched.modules.supported_models"):
    try:
        known = importlib.import_module(name)
    except ImportError:
        continue
    known.SD15.unet_config["model_channels"] = int(os.environ["FLEXIFFUSION_PROBE_WIDTH"])

counts: Counter = Counter()
dump: dict = {}
_handles: list = []


def unet():
    forge = getattr(shared.sd_model, "forge_objects", None)
    return (forge.unet.model if forge else shared.sd_model.model).diffusion_model


def fingerprint() -> int:
    """Of every module's attributes, hooks and forward, by identity."""
    return hash(
        tuple(
            (name, id(value) if not isinstance(value, dict) else tuple((key, id(item)) for key, item in value.items()))
            for module in unet().modules()
            for name, value in vars(module).items()
            if name not in ("org_shape",)
        )
    )


def watch() -> None:
    while _handles:
        _handles.pop().remove()
    network = unet()
    deep = next(m for m in network.middle_block.modules() if isinstance(m, torch.nn.Conv2d))
    last = [m for m in network.out.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    _handles.append(deep.register_forward_hook(lambda *_: counts.update(full=1)))
    _handles.append(last.register_forward_hook(lambda *_: counts.update(calls=1)))


class Probe(scripts.Script):
    """Keeps what a sampling starts from and ends with."""

    def title(self):
        return "Flexiffusion probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p, *args, x=None, noise=None, c=None, uc=None, **kwargs):
        dump["noise"] = noise.detach().cpu().clone()
        dump["sampler"] = p.sampler
        dump["func"] = p.sampler.func

    def post_sample(self, p, ps, *args):
        dump["latent"] = ps.samples.detach().cpu().float().clone()


def on_denoiser(params):
    for name, cond in (("cond", params.text_cond), ("uncond", params.text_uncond)):
        if cond is not None:  # Forge Neo has no uncond at guidance 1
            tensor = cond["crossattn"] if isinstance(cond, dict) else cond
            dump.setdefault(name, tensor.detach().cpu().clone())
    dump.setdefault("values", []).append(float(params.sigma.flatten()[0]))
    dump.setdefault("steps", []).append(int(params.denoiser.step))


def on_app_started(demo, app):
    @app.post("/probe/reset")
    def reset():
        counts.clear()
        dump.clear()
        watch()
        while _handles and os.environ.get("PROBE_OFF"):
            _handles.pop().remove()
        return {}

    @app.post("/probe/unhook")
    def unhook():
        while _handles:
            _handles.pop().remove()
        return {"fingerprint": str(fingerprint())}

    @app.get("/probe")
    def tell():
        return {
            "calls": counts["calls"],
            "full": counts["full"],
            "values": dump.get("values", []),
            "steps": dump.get("steps", []),
            "finite": "latent" not in dump or bool(dump["latent"].isfinite().all()),
        }

    @app.post("/probe/save")
    def save(request: dict):
        torch.save({name: dump[name] for name in ("noise", "latent", "cond", "uncond", "values")}, request["path"])
        return {}

    @app.post("/probe/evaluations")
    def end_searches(request: dict):
        """From then on searches end after a number of candidates, on every machine the same."""
        module, number = sys.modules["webui_extension.search"], request["number"]
        find = module.find
        module.find = lambda *args, **kwargs: find(*args, **kwargs | {"seconds": None, "evaluations": number})
        return {}


script_callbacks.on_cfg_denoiser(on_denoiser)
script_callbacks.on_app_started(on_app_started)
