"""Write the CLIP tokenizer's files, which every SD1.x, SD2.x and SDXL checkpoint needs and none contains.

    pip download --no-deps open-clip-torch==3.3.0
    python -m tools.make_clip_tokenizer open_clip_torch-3.3.0-py3-none-any.whl [--out flexsearch/assets/clip]

The wheel ships OpenAI's list of byte pairs (`bpe_simple_vocab_16e6.txt.gz`, MIT); the package itself depends on
torchvision and timm, far too much for one list. The vocabulary follows from the pairs (openai/CLIP,
`simple_tokenizer`): 256 bytes, the same 256 at the end of a word, one entry for each of the first 48,894 pairs, two
special tokens.
"""

from __future__ import annotations

import argparse
import gzip
import json
import zipfile
from pathlib import Path

from tokenizers import pre_tokenizers

from flexsearch.models.assets import ASSETS

VOCABULARY = 49_408
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
CONFIG = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "bos_token": SPECIAL[0],
    "eos_token": SPECIAL[1],
    "unk_token": SPECIAL[1],
    "pad_token": SPECIAL[1],
}


def byte_characters() -> list[str]:
    """The printable characters that stand for the 256 bytes, in the order of the vocabulary: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [chr(256 + i) for i in range(256 - len(printable))]
    characters = [*map(chr, printable), *moved]
    assert set(characters) == set(pre_tokenizers.ByteLevel.alphabet())
    return characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS / "clip")
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as wheel:
        packed = wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")
    characters = byte_characters()
    wanted = VOCABULARY - 2 * len(characters) - len(SPECIAL)
    pairs = gzip.decompress(packed).decode("utf-8").split("\n")[1 : 1 + wanted]  # line 0 is a heading
    tokens = [*characters, *(f"{c}</w>" for c in characters), *("".join(pair.split()) for pair in pairs), *SPECIAL]
    assert len(set(tokens)) == VOCABULARY
    arguments.out.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    for name, text in (
        ("vocab.json", json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":"))),
        ("merges.txt", "\n".join(["#version: 0.2", *pairs])),
        ("tokenizer_config.json", json.dumps(CONFIG, indent=1)),
    ):
        (arguments.out / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
