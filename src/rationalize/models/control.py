"""Control tokens: one per reward and bin, inputs only. Their ids follow the old vocabulary, and no
distribution holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rationalize.errors import UserError

ControlInit = Literal["statistics", "words"]

GOOD_TO_BAD = ("best", "good", "fair", "poor", "worst")
"""Words that the rows start from with `init="words"`, stretched over the bins."""


@dataclass(frozen=True)
class ControlTokens:
    """Bins per reward, in the order of the prefix; bin 0 is best."""

    bins: Mapping[str, int]
    copies: int = 1
    """Tokens per control: a longer prefix is harder to overlook."""
    first_id: int = 0
    lowest: Mapping[str, int] = field(default_factory=dict)
    """The worst bin that was trained, of each reward where that is known; else it is the last."""

    def names(self) -> list[str]:
        """Token texts in the order of their ids."""
        return [
            f"<|{reward}:{b}|>" if self.copies == 1 else f"<|{reward}:{b}.{c}|>"
            for reward, k in self.bins.items()
            for b in range(k)
            for c in range(self.copies)
        ]

    def ids(self) -> list[int]:
        return list(range(self.first_id, self.first_id + sum(self.bins.values()) * self.copies))

    def prefix(self, chosen: Mapping[str, int]) -> list[int]:
        """Ids of the chosen bins, in prefix order; rewards that are not named get no token.

        Raises `UserError` for a reward or bin that was never trained.
        """
        for reward, b in chosen.items():
            if reward not in self.bins or not 0 <= b < self.bins[reward]:
                known = ", ".join(f"{r}=0..{k - 1}" for r, k in self.bins.items())
                raise UserError(
                    f"no control token for {reward}={b}; this model has {known} (0 is best)"
                )
        ids: list[int] = []
        start = self.first_id
        for reward, k in self.bins.items():
            if reward in chosen:
                at = start + chosen[reward] * self.copies
                ids.extend(range(at, at + self.copies))
            start += k * self.copies
        return ids

    def worst(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """The same rewards at their worst trained bins."""
        return {reward: self.lowest.get(reward, self.bins[reward] - 1) for reward in chosen}


def add_control_rows(
    model: Any,
    tokenizer: Any,
    controls: ControlTokens,
    n_vocab: int,
    *,
    init: ControlInit = "statistics",
    seed: int = 0,
) -> None:
    """Make and fill the embedding rows of the control ids; a matrix that has room for them is
    neither shrunk nor grown.

    `statistics`: Normal(mean, deviation) per dimension of the words' rows (mario.md 2.1-1).
    `words`: the mean row of the reward's name and of a word for the bin, plus a tenth of that
    noise, so that copies differ.
    """
    end = controls.first_id + len(controls.ids())
    if model.get_input_embeddings().weight.shape[0] < end:
        model.resize_token_embeddings(end, mean_resizing=False)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    for weight in {
        id(layer.weight): layer.weight for layer in layers
    }.values():  # one where they are tied
        words = weight[:n_vocab].detach().float()
        deviation = words.std(0)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(controls.ids()), words.shape[1], generator=generator).to(words)
        if init == "words":
            means = [
                _anchor(words, tokenizer, r, b, k)
                for r, k in controls.bins.items()
                for b in range(k)
            ]
            rows = (
                torch.stack(means).repeat_interleave(controls.copies, 0) + 0.1 * deviation * noise
            )
        else:
            rows = words.mean(0) + deviation * noise
        with torch.no_grad():
            weight[controls.first_id : end] = rows.to(weight)


def _anchor(words: Tensor, tokenizer: Any, reward: str, b: int, k: int) -> Tensor:
    level = GOOD_TO_BAD[round(b * (len(GOOD_TO_BAD) - 1) / max(1, k - 1))]
    ids = tokenizer(f"{level} {reward.replace('_', ' ')}", add_special_tokens=False)["input_ids"]
    return words[ids].mean(0)
