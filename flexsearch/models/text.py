"""Prompts -> what the network is told: one or two CLIP text encoders with their tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexsearch.devices import visiting

ROWS = 32  # prompts encoded together


@dataclass(frozen=True)
class TextEncoder:
    """One CLIP text model. `pad` fills up what a prompt leaves free of the tokenizer's `model_max_length`."""

    model: Any
    tokenizer: Any
    pad: int

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (n, model_max_length); what is longer is cut off (`cut` counts such prompts)."""
        length = self.tokenizer.model_max_length
        # Padded here and not by the tokenizer: where the padding token is "!", it would also change a prompt's own.
        rows = self.tokenizer(list(prompts), truncation=True, max_length=length).input_ids
        return torch.tensor([[*row, *[self.pad] * (length - len(row))] for row in rows])

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts have more tokens than are read."""
        length = self.tokenizer.model_max_length
        return sum(len(row) > length for row in self.tokenizer(list(prompts)).input_ids)


@dataclass(frozen=True)
class TextEncoders:
    """What a checkpoint reads prompts with.

    One encoder: its last hidden states, normalised (SD1.x; SD2.x, whose last layer has been left out). Two (SDXL, arXiv
    2307.01952, section 2.1): both encoders' last but one, side by side, and the second's pooled and projected states.
    """

    encoders: tuple[TextEncoder, ...]

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """States (n, tokens, width), and pooled ones (n, width) or None, on `device`, which the encoders only visit."""
        two = len(self.encoders) == 2
        states: list[Tensor] = []
        outputs: list[Any] = []
        for encoder in self.encoders:
            with visiting(encoder.model, device):
                outputs = [
                    encoder.model(rows.to(device), output_hidden_states=two)
                    for rows in encoder.ids(prompts).split(ROWS)
                ]
            states.append(torch.cat([output.hidden_states[-2] if two else output[0] for output in outputs]))
        return torch.cat(states, dim=-1), torch.cat([output.text_embeds for output in outputs]) if two else None
