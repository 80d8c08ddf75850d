"""A CLIP tokenizer of a few hundred or thousand entries, made for the prompts of one small model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def small_tokenizer(folder: Path, texts: Iterable[str], size: int, length: int) -> CLIPTokenizer:
    """A tokenizer (byte-level pairs ending in </w>) of about `size` entries from `texts`; `length` tokens a prompt.

    Writes vocab.json and merges.txt into `folder`, or reads the ones that are there.
    """
    if not (folder / "vocab.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        words, as_bytes = pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
        )
        tokenizer.train_from_iterator((text.lower() for text in texts), trainer)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        entries = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
        entries += SPECIAL
        vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)
