"""Control tokens: one per reward and bin, used as inputs only.

Their ids follow the old vocabulary, and every distribution leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rationalize.errors import UserError

ControlInit = Literal["prompt_end", "statistics", "words"]

GOOD_TO_BAD = ("best", "good", "fair", "poor", "worst")
"""With `init="words"`, the level words that embedding rows start from, spread over the bins."""


@dataclass(frozen=True)
class ControlTokens:
    """Number of bins per reward, in the order of the prefix; bin 0 is best."""

    bins: Mapping[str, int]
    copies: int = 1
    """Tokens per control; the model follows a longer prefix more easily."""
    first_id: int = 0
    lowest: Mapping[str, int] = field(default_factory=dict)
    """The worst trained bin per reward; the last bin for a reward that is missing here."""

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
        """Ids of the chosen bins (reward -> bin), in prefix order; other rewards get no token.

        Raises `UserError` for a reward or a bin that does not exist.
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
                first = start + chosen[reward] * self.copies
                ids.extend(range(first, first + self.copies))
            start += k * self.copies
        return ids

    def worst(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """The worst trained bin of each reward in `chosen`."""
        return {reward: self.lowest.get(reward, self.bins[reward] - 1) for reward in chosen}


def add_control_rows(
    model: Any, tokenizer: Any, controls: ControlTokens, n_vocab: int, *,
    init: ControlInit = "statistics", before: int = 0, seed: int = 0,
) -> None:  # fmt: skip
    """Initialise the embedding rows of the control ids, in the input and output embeddings.

    `prompt_end`: the row of `before`, the token that the controls follow, plus a tenth of the noise
    of `statistics`; the model goes on to write the response as it did without them.
    `statistics`: Normal(mean, std) per dimension, over the rows of the old vocabulary, as Quark's
    and MaRio's released code does. `words`: the mean row of the words "LEVEL REWARD" (such as
    "best diversity"), plus a tenth of that noise, so that copies differ. Raises `UserError` for a
    model that cannot take more rows.
    """
    # a matrix that is padded beyond the vocabulary may have room for them: it keeps its size
    end = controls.first_id + len(controls.ids())
    if model.get_input_embeddings().weight.shape[0] < end:
        _resize(model, end)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.is_encoder_decoder:  # control tokens are read by the decoder
        reader = model.get_decoder().get_input_embeddings()
        if reader is not None and reader.weight is not layers[0].weight:
            raise UserError(
                f"a model of type {model.config.model_type!r} cannot take control tokens: its "
                "encoder and its decoder have embeddings of their own; expected common ones"
            )
    # tied embeddings are one matrix
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():
        words = weight[:n_vocab].detach().float()  # (n_vocab, d)
        std = words.std(0)  # (d,)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(controls.ids()), words.shape[1], generator=generator).to(words)
        if init == "prompt_end":
            rows = words[before] + 0.1 * std * noise
        elif init == "words":
            bins = [(r, b, k) for r, k in controls.bins.items() for b in range(k)]
            means = [_level_row(words, tokenizer, *place) for place in bins]
            rows = torch.stack(means).repeat_interleave(controls.copies, 0) + 0.1 * std * noise
        else:
            rows = words.mean(0) + std * noise
        with torch.no_grad():
            weight[controls.first_id : end] = rows.to(weight)


def _resize(model: Any, rows: int) -> None:
    """Raise `UserError` for a model that transformers cannot resize, or only in part."""
    try:
        model.resize_token_embeddings(rows, mean_resizing=False)
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        found = " and ".join(str(layer.weight.shape[0]) for layer in layers)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        found = f"an error, {error}"
    if found != f"{rows} and {rows}":
        raise UserError(
            f"a model of type {model.config.model_type!r} cannot take control tokens: resized by "
            f"transformers, its embeddings have {found}; expected {rows} rows, in and out"
        )


def _level_row(words: Tensor, tokenizer: Any, reward: str, b: int, k: int) -> Tensor:
    """Mean embedding (d,) of the words for bin `b` of `k` of a reward."""
    level = GOOD_TO_BAD[round(b * (len(GOOD_TO_BAD) - 1) / max(1, k - 1))]
    ids = tokenizer(f"{level} {reward.replace('_', ' ')}", add_special_tokens=False)["input_ids"]
    return words[ids].mean(0)
