"""Our SDXL network, converted from the LDM layout, computes what ComfyUI's own does from the same tensors.

COMFYUI_PYTHON names the interpreter that has ComfyUI's requirements, where it is another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flexsearch.models import single_file
from flexsearch.models.ldm_keys import SDXL_ADM_SIZES, UNET
from tools.make_random_checkpoint import checkpoint_shape, random_tensors

# In a process of its own: ComfyUI reads sys.argv when it is imported.
SCRIPT = """
import sys, torch
folder, given, answer = sys.argv[1:]
sys.argv[1:] = ["--cpu"]
sys.path.insert(0, folder)
import comfy.options
comfy.options.enable_args_parsing()
import comfy.ops
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
given = torch.load(given)
unet = UNetModel(
    image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[2, 2, 2], channel_mult=(1, 2, 4),
    num_classes="sequential", adm_in_channels=given["adm"], use_spatial_transformer=True, context_dim=given["context"],
    transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
    transformer_depth_middle=10, num_heads=-1, num_head_channels=64, use_linear_in_transformer=True, legacy=False,
    dtype=torch.float32, operations=comfy.ops.disable_weight_init,
).eval()
unet.load_state_dict(given["tensors"])
sizes = [timestep_embedding(given["sizes"][:, i], 256) for i in range(6)]
with torch.no_grad():
    made = unet(given["x"], timesteps=torch.tensor([321, 321]), context=given["states"],
                y=torch.cat([given["pooled"], *sizes], dim=1))
torch.save(made, answer)
"""


@pytest.mark.host
@pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")
def test_sdxl_equals_comfyui(tmp_path: Path) -> None:
    shape = checkpoint_shape("sdxl", tiny=True)
    assert shape.pooled is not None
    tensors = {k: v for k, v in random_tensors(shape, dtype=torch.float32).items() if k.startswith(UNET)}
    torch.manual_seed(0)
    x, states, pooled = torch.randn(2, 4, 16, 16), torch.randn(2, 77, shape.context), torch.randn(2, shape.pooled)
    sizes = torch.tensor([[1024.0, 768, 0, 0, 1024, 768]] * 2)
    with torch.no_grad():
        more = {"text_embeds": pooled, "time_ids": sizes}
        ours = single_file.make_unet(shape, tensors)(x, 321, states, added_cond_kwargs=more).sample
    given = {"tensors": {name.removeprefix(UNET): tensor for name, tensor in tensors.items()}, "x": x, "sizes": sizes,
             "states": states, "pooled": pooled, "context": shape.context,
             "adm": shape.pooled + SDXL_ADM_SIZES}  # fmt: skip
    torch.save(given, tmp_path / "given.pt")
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    command = [python, "-c", SCRIPT, os.environ["COMFYUI_PATH"], tmp_path / "given.pt", tmp_path / "made.pt"]
    subprocess.run(command, check=True, cwd=tmp_path)
    torch.testing.assert_close(ours, torch.load(tmp_path / "made.pt"), rtol=1e-3, atol=1e-4)
