"""Starts a checkout of the WebUI on loopback with a small random checkpoint, and talks to its HTTP API.

The checkout's own `venv` runs it (or WEBUI_PYTHON, FORGE_PYTHON, ...). What it writes goes to a folder of the test.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).parent / "webui_probe"
CLIP = "openai/clip-vit-large-patch14"
COMMON = ["--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check",
          "--server-name", "127.0.0.1", "--no-hashing", "--api"]  # fmt: skip
FLAGS = {
    "a1111": ["--no-download-sd-model", "--use-cpu", "all", "--no-half", "--do-not-download-clip"],
    "forge": ["--no-download-sd-model", "--always-cpu", "--all-in-fp32"],
    "neo": ["--cpu", "--force-fp32", "--disable-gpu-warning", "--adv-samplers"],
    "reforge": ["--no-download-sd-model", "--always-cpu", "--all-in-fp32"],
}
VARIABLES = {"a1111": "WEBUI", "forge": "FORGE", "neo": "FORGE_NEO", "reforge": "REFORGE"}
NAMES = {"a1111": "AUTOMATIC1111", "forge": "Forge", "neo": "Forge Neo", "reforge": "reForge"}


@dataclass
class Picture:
    """What one generation gave. `calls` and `full` are counted by the probe's hooks; `finite` is of the latent."""

    images: list[Image.Image]
    infotext: str
    calls: int
    full: int
    values: list[float]
    steps: list[int]
    finite: bool
    infotexts: list[str]
    parameters: dict[str, Any]  # extra_generation_params

    @property
    def pixels(self) -> bytes:
        return self.images[0].tobytes()

    def key(self, name: str) -> str | None:
        """One key of the infotext, unquoted."""
        _, found, after = self.infotext.rpartition(f"{name}: ")
        if not found:
            return None
        return json.JSONDecoder().raw_decode(after)[0] if after.startswith('"') else after.partition(",")[0].strip()


@dataclass
class Server:
    """A running host."""

    kind: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    samplers: list[str] = field(default_factory=list)

    def call(self, path: str, data: Any = None, timeout: float = 250) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()[:2000]!r}") from error

    def generate(self, arguments: list[Any] | None = None, mode: str = "txt2img", **request: Any) -> Picture:
        """One generation; `arguments` of the Flexiffusion script, None: it is not mentioned."""
        body: dict[str, Any] = {
            "prompt": "a cat", "negative_prompt": "blurry", "steps": 8, "width": 64, "height": 64, "seed": 1,
            "sampler_name": "Euler", "cfg_scale": 5,
        }  # fmt: skip
        return self._picture(mode, body | request, arguments)

    def restore(self, infotext: str) -> Picture:
        """A generation of which nothing is said but the text of a picture."""
        return self._picture("txt2img", {"infotext": infotext}, None)

    def _picture(self, mode: str, body: dict[str, Any], arguments: list[Any] | None) -> Picture:
        self.call("/probe/reset", {})
        scripts = dict(body.get("alwayson_scripts", {}))
        if arguments is not None:
            scripts["Flexiffusion"] = {"args": arguments}
        body["alwayson_scripts"] = scripts
        answer = self.call(f"/sdapi/v1/{mode}", body, timeout=1200)  # a search takes minutes
        info = json.loads(answer["info"])
        pictures = [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in answer["images"]]
        parameters = info.get("extra_generation_params", {})
        return Picture(
            pictures, info["infotexts"][0], **self.call("/probe"), infotexts=info["infotexts"], parameters=parameters
        )

    @property
    def gradio4(self) -> bool:
        """Forge and Forge Neo, which share their newer API."""
        return self.kind in ("forge", "neo")

    def logged(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(kind: str, folder: Path, checkpoint: Path | None = None) -> Server | None:
    """Starts the host with its UI, which the X/Y/Z axes need; None where its checkout is not given.

    checkpoint: a file of `write_checkpoint` with 320 channels; otherwise two narrow ones are made.
    """
    name = VARIABLES[kind]
    given = os.environ.get(f"{name}_PATH")
    if not given:
        return None
    checkout = Path(given).resolve()
    python = os.environ.get(f"{name}_PYTHON") or str(checkout / "venv" / "bin" / "python")
    models = folder / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    width = 32 if checkpoint is None else 320
    vae_width = 32 if kind == "a1111" else 128
    files = [models / "tiny.safetensors", models / "second.safetensors"]
    if checkpoint is None:
        for seed, file in enumerate(files):
            write_checkpoint(file, vae_width=vae_width, seed=seed)
    else:
        del files[1:]
        files[0].symlink_to(checkpoint)
        vae_width = 128
    if kind == "a1111":
        for file in files:
            write_config(checkout, file, width, vae_width)
    if kind == "reforge":  # it would fetch a network for its previews before its first picture
        (folder / "config.json").write_text(json.dumps({"show_progress_type": "Approx cheap"}), encoding="utf-8")
    (folder / "extensions").mkdir()
    (folder / "extensions" / "flexiffusion").symlink_to(ROOT)
    (folder / "extensions" / "zz_probe").symlink_to(PROBE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
        "GRADIO_ANALYTICS_ENABLED": "False", "FLEXIFFUSION_PROBE_WIDTH": str(width),
    }  # fmt: skip
    environment.pop("PYTHONPATH", None)
    flags = [*COMMON, *FLAGS[kind], "--port", str(port), "--data-dir", str(folder), "--ckpt", str(files[0])]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [python, "launch.py", *flags], cwd=checkout, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(kind, port, folder, process, log)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"{kind} ended while it started:\n{server.logged()[-4000:]}")
        if "Startup time" not in server.logged():
            # not before: a request that comes between gradio's start and the WebUI's own ends AUTOMATIC1111
            time.sleep(1)
            continue
        try:
            server.samplers = [sampler["name"] for sampler in server.call("/sdapi/v1/samplers", timeout=20)]
            break
        except (OSError, AssertionError):
            time.sleep(1)
    else:
        stop(server)
        raise AssertionError(f"{kind} did not answer in time:\n{server.logged()[-4000:]}")
    server.call("/sdapi/v1/txt2img", {"steps": 1, "width": 64, "height": 64})  # Forge loads its model only now
    return server


def stop(server: Server) -> None:
    server.process.terminate()
    try:
        server.process.wait(20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    shutil.rmtree(server.folder / "models", ignore_errors=True)


def write_config(checkout: Path, checkpoint: Path, width: int, vae_width: int) -> None:
    """AUTOMATIC1111 takes a model's shape from the file beside it."""
    text = (checkout / "configs" / "v1-inference.yaml").read_text(encoding="utf-8")
    text = text.replace("model_channels: 320", f"model_channels: {width}").replace("ch: 128", f"ch: {vae_width}")
    if width == 320:
        text = text.replace("channel_mult: [ 1, 2, 4, 4 ]", "channel_mult: [ 1, 1, 1, 1 ]")
    checkpoint.with_suffix(".yaml").write_text(text, encoding="utf-8")


def write_checkpoint(path: Path, vae_width: int, width: int = 32, seed: int = 0) -> Path:
    """An SD1.5 file in the LDM layout with a small U-Net, a VAE of this width, and random weights, none at zero.

    width: 32 widening to 128 with the levels, or 320 at every level, which every host takes for SD1.5
    """
    from ldm.modules.diffusionmodules.model import Decoder, Encoder
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=width, attention_resolutions=[4, 2, 1],
        num_res_blocks=2, channel_mult=[1, 2, 4, 4] if width == 32 else [1, 1, 1, 1], num_heads=8,
        use_spatial_transformer=True, context_dim=768, legacy=False,
    )  # fmt: skip
    vae = {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": vae_width,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    tensors = {f"model.diffusion_model.{name}": value for name, value in unet.state_dict().items()}
    for part, module in (("encoder", Encoder(**vae)), ("decoder", Decoder(**vae))):
        tensors |= {f"first_stage_model.{part}.{name}": value for name, value in module.state_dict().items()}
    for name, shape in (("quant_conv", (8, 8)), ("post_quant_conv", (4, 4))):
        tensors[f"first_stage_model.{name}.weight"] = torch.randn(*shape, 1, 1) * 0.3
        tensors[f"first_stage_model.{name}.bias"] = torch.zeros(shape[0])
    for name, value in text.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{name}"] = value
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    for name, value in tensors.items():
        if name.endswith("weight") and not value.any():
            tensors[name] = value = torch.randn_like(value) * (0.5 / math.sqrt(value[0].numel()))
        if name.endswith("bias") and not value.any():
            # not zero either: the hosts divide by the mean of what the text encoder's last normalisation gives
            tensors[name] = value = torch.randn_like(value) * 0.05
        tensors[name] = value.half().contiguous() if value.is_floating_point() else value.contiguous()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    tensors["alphas_cumprod"] = torch.cumprod(1 - betas, 0).float()
    save_file(tensors, path)
    return path


if (
    __name__ == "__main__"
):  # python tests/hosts/webui_server.py a1111|forge|neo|reforge FOLDER: start one by hand, with its UI
    running = start(sys.argv[1], Path(sys.argv[2]))
    assert running is not None, "give WEBUI_PATH, FORGE_PATH, FORGE_NEO_PATH or REFORGE_PATH"
    print(f"http://127.0.0.1:{running.port}")
    try:
        running.process.wait()
    finally:
        stop(running)
