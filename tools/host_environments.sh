#!/bin/bash
# Makes the Python environments in which the host tests run the real programs on a CPU, with nothing but PyPI:
#
#   tools/host_environments.sh FOLDER [comfyui] [reforge] [forge] [a1111] [neo]
#
# FOLDER holds the checkouts that are wanted, under these names: ComfyUI, a1111, forge, reforge, neo (the folder of Forge
# Neo that has launch.py; it may be a link). Without names after it every checkout that is there gets its environment,
# `venv` inside the checkout, where the WebUI tests look for it. A second run only does what is missing. What each host
# asks for is taken at the versions of its own requirements; what it does not need for a random SD1.5 model on a CPU (its
# repositories, CLIP's weights, BLIP) is stood in for. Python 3.11, which the pinned versions have wheels for.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(cd "${1:?usage: tools/host_environments.sh FOLDER [host ...]}" && pwd)
shift
hosts=("$@")
[[ ${#hosts[@]} -gt 0 ]] || hosts=(comfyui reforge forge a1111 neo)
python=${PYTHON:-python3.11}
export PIP_CONSTRAINT=$here/.ci/constraints.txt # the CPU's torch, in whatever asks for one
export PIP_DISABLE_PIP_VERSION_CHECK=1

declare -A checkouts=([comfyui]=ComfyUI [reforge]=reforge [forge]=forge [a1111]=a1111 [neo]=neo)

site() { # the folder of an environment's packages
  echo "$1"/lib/python3.*/site-packages
}

# One torch for all: 700 MB that each environment sees by a .pth, after its own packages.
torch=$folder/env-torch
if [[ ! -f $torch/done ]]; then
  "$python" -m venv "$torch"
  "$torch/bin/pip" install -q torch
  # No torchvision or torchaudio is built for this torch on PyPI: the released ones link CUDA. Their Python parts are
  # all that the hosts use here.
  "$torch/bin/pip" install -q --no-deps torchvision==0.28.0 torchaudio==2.11.0
  : >"$(site "$torch")/torchvision/_meta_registrations.py" # it describes operators of the library that does not load
  rm -f "$(site "$torch")"/torchaudio/lib/*.so             # without them torchaudio takes its Python ways
  touch "$torch/done"
fi

environment() { # an environment that sees torch; $1: the checkout
  [[ -x $1/venv/bin/python ]] || "$python" -m venv "$1/venv"
  site "$torch" >"$(site "$1/venv")/zz-torch.pth"
}

requirements() { # the host's list without what pip cannot take together with this torch, or not from PyPI
  # setuptools: a version that contradicts torch's own requirement, so it comes last and alone
  grep -vE '^ *(https?:|setuptools|torch *$|torchvision *$|torchaudio *$)' "$1"
}

old_setuptools() { # the hosts' old packages import pkg_resources
  "$1/venv/bin/pip" install -q --no-deps setuptools==69.5.1
}

ldm() { # the code of Stable Diffusion that A1111 and reForge clone, from the package that wraps it
  local into=$1/repositories/stable-diffusion-stability-ai
  [[ -d $into/ldm ]] || "$1/venv/bin/pip" install -q --no-deps --target "$into" stable-diffusion-sdkit==2.1.5
}

assets() { # pictures and fonts that they serve; the folder has to be there
  mkdir -p "$1/repositories/stable-diffusion-webui-assets"
}

sgm() { # the code of SDXL: empty classes, which are only patched when an SD1.5 model is loaded
  "$python" - "$1/repositories/generative-models/sgm" <<'EOF'
import sys
from pathlib import Path

EMPTY = "import torch\n\n\nclass {0}(torch.nn.Module):\n    def forward(self, *args, **kwargs):\n        raise NotImplementedError\n\n\n"
CLASSES = {
    "models/diffusion": ["DiffusionEngine"],
    "modules/__init__": ["GeneralConditioner"],
    "modules/attention": ["CrossAttention", "MemoryEfficientCrossAttention", "BasicTransformerBlock", "SpatialTransformer"],
    "modules/diffusionmodules/denoiser_scaling": ["VScaling", "EpsScaling"],
    "modules/diffusionmodules/discretizer": ["LegacyDDPMDiscretization"],
    "modules/diffusionmodules/model": ["AttnBlock"],
    "modules/diffusionmodules/openaimodel": ["UNetModel"],
    "modules/diffusionmodules/util": ["GroupNorm32"],
    "modules/diffusionmodules/wrappers": ["OpenAIWrapper"],
    "modules/encoders/modules": ["FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder", "FrozenOpenCLIPEmbedder2", "ConcatTimestepEmbedderND"],
}
ADDED = {
    # the real one imports these too, and reForge relies on it
    "modules/encoders/modules": "import sgm.modules.attention\nimport sgm.modules.diffusionmodules.model\n"
    "import sgm.modules.diffusionmodules.openaimodel\n",
    "modules/diffusionmodules/model": "def nonlinearity(x):\n    raise NotImplementedError\n",
    "modules/diffusionmodules/openaimodel": "th = torch\n\n\ndef timestep_embedding(*args, **kwargs):\n    raise NotImplementedError\n",
}
for name, classes in CLASSES.items():
    file = Path(sys.argv[1]) / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    for package in (file.parent, *file.parent.parents):
        if package == Path(sys.argv[1]).parent:
            break
        (package / "__init__.py").touch()
    file.write_text("".join(EMPTY.format(kind) for kind in classes) + ADDED.get(name, ""))
EOF
}

clip_cache() { # A1111 takes the tokenizer and the shape of CLIP from the Hugging Face cache: as transformers lays it out
  local cache=${HF_HOME:-$HOME/.cache/huggingface}/hub/models--openai--clip-vit-large-patch14
  local snapshot=$cache/snapshots/0000000000000000000000000000000000000000
  [[ -d $cache/snapshots ]] && return
  mkdir -p "$snapshot" "$cache/refs"
  printf %s "${snapshot##*/}" >"$cache/refs/main"
  cp "$here"/flexsearch/assets/clip/{vocab.json,merges.txt,tokenizer_config.json} "$snapshot"
  cat >"$snapshot/special_tokens_map.json" <<'EOF'
{"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
EOF
  cat >"$snapshot/config.json" <<'EOF'
{"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 768, "text_config": {
 "model_type": "clip_text_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
 "num_attention_heads": 12, "max_position_embeddings": 77, "vocab_size": 49408, "hidden_act": "quick_gelu",
 "layer_norm_eps": 1e-05, "projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
 "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
 "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "projection_dim": 768}}
EOF
}

comfyui() {
  # the tests run in it, and tests/contract imports diffusers
  "$1/venv/bin/pip" install -q -r <(requirements "$1/requirements.txt") pytest pytest-timeout diffusers
}

reforge() {
  # its list has a build of pydantic 1 of its own, from elsewhere
  "$1/venv/bin/pip" install -q -r <(requirements "$1/requirements_versions.txt") pydantic==1.10.15
  "$1/venv/bin/pip" install -q --no-deps clip-anytorch==2.6.0 # OpenAI's CLIP, which its k-diffusion imports
  old_setuptools "$1"
  assets "$1"
  ldm "$1"
  sgm "$1"
}

forge() {
  "$1/venv/bin/pip" install -q -r <(requirements "$1/requirements_versions.txt")
  "$1/venv/bin/pip" install -q --no-deps huggingface-guess==0.1.0 # it clones it
  old_setuptools "$1"
  assets "$1"
}

a1111() {
  "$1/venv/bin/pip" install -q -r <(requirements "$1/requirements_versions.txt")
  "$1/venv/bin/pip" install -q --no-deps k-diffusion==0.0.16 clip-anytorch==2.6.0 # it clones it; what it imports
  old_setuptools "$1"
  assets "$1"
  ldm "$1"
  sgm "$1"
  clip_cache
}

neo() {
  # in two steps, as it does itself: gradio asks for an older Pillow than Neo
  "$1/venv/bin/pip" install -q gradio==4.40.0 gradio_rangeslider==0.0.8
  "$1/venv/bin/pip" install -q -r <(requirements "$1/requirements.txt") pytest pytest-timeout
}

for host in "${hosts[@]}"; do
  checkout=$folder/${checkouts[$host]:?$host: not one of ${!checkouts[*]}}
  if [[ ! -d $checkout ]]; then
    echo "$host: there is no $checkout"
    continue
  fi
  if [[ ! -f $checkout/venv/done ]]; then
    environment "$checkout"
    "$host" "$checkout"
    touch "$checkout/venv/done"
  fi
  echo "$host: $checkout/venv/bin/python"
done
