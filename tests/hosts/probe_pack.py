"""A custom node for the tests, copied into the host: records what the network really computes.

Whether a call computed the deep part is seen by a hook inside of the middle block's first unit, which a partial call
never enters. Every sampling appends one JSON line to `probe.jsonl` in the host's output folder.
"""

import json
import os
import sys

import folder_paths


class Probe:
    """MODEL -> MODEL. Its wrapper of DIFFUSION_MODEL is called in both kinds of step."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "probe"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def probe(self, model):
        probed = model.clone()
        probed.add_wrapper_with_key("outer_sample", "probe", outer_sample)
        probed.add_wrapper_with_key("sampler_sample", "probe", sampler_sample)
        probed.add_wrapper_with_key("diffusion_model", "probe", diffusion_model)
        return (probed,)


CALLS = []
DEEP = []
SIGMAS = []
RESTORED = []


def outer_sample(executor, *args, **kwargs):
    unet = executor.class_obj.model_patcher.model.diffusion_model
    CALLS.clear()
    RESTORED.clear()
    inner = next(module for module in unet.middle_block[0].modules() if not list(module.children()))
    hook = inner.register_forward_hook(lambda *_: DEEP.append(1))
    ended = "interrupted"
    try:
        result = executor(*args, **kwargs)
        ended = "done"
        return result
    finally:
        hook.remove()
        line = {
            "sigmas": list(SIGMAS),
            "calls": list(CALLS),
            "ended": ended,
            "restored": RESTORED == [True],
        }
        with open(os.path.join(folder_paths.get_output_directory(), "probe.jsonl"), "a") as file:
            file.write(json.dumps(line) + "\n")


def sampler_sample(executor, guider, sigmas, *args, **kwargs):
    # here and not in outer_sample: the host marks modules when it loads them, and others may change the list there
    SIGMAS[:] = [float(sigma) for sigma in sigmas]
    unet = guider.inner_model.diffusion_model
    before = dictionaries(unet)
    try:
        return executor(guider, sigmas, *args, **kwargs)
    finally:
        RESTORED.append(before == dictionaries(unet))


def diffusion_model(executor, x, *args, **kwargs):
    options = next(value for value in (*args, *kwargs.values()) if isinstance(value, dict) and "sigmas" in value)
    DEEP.clear()
    try:
        return executor(x, *args, **kwargs)
    finally:
        with open(os.path.join(folder_paths.get_output_directory(), "probe.calls"), "a") as file:
            file.write("x")
        call = {"sigma": float(options["sigmas"][0]), "deep": bool(DEEP), "rows": x.shape[0]}
        call["texts"] = [float(text.double().abs().mean()) for text in args[1]]  # tells prompts apart, row by row
        CALLS.append({**call, "control": args[3] is not None})


def dictionaries(unet):
    return [(id(module), sorted(vars(module))) for module in unet.modules()]


class Limit:
    """MODEL -> MODEL. From then on searches end after a number of candidates, on every machine the same."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "limit"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "evaluations": ("INT", {"min": 1})}}

    def limit(self, model, evaluations):
        (module,) = (module for name, module in sys.modules.items() if name.endswith(".comfy_nodes.search"))
        find = module.find
        module.find = lambda *args, **kwargs: find(*args, **kwargs | {"seconds": None, "evaluations": evaluations})
        return (model,)


NODE_CLASS_MAPPINGS = {"FlexiffusionTestProbe": Probe, "FlexiffusionTestLimit": Limit}
