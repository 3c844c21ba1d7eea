"""Vera, the published verifier of commonsense statements (Liu et al., arXiv 2305.03695).

MaRio's plausibility reward is Vera's probability that a rationale is true (docs/methods/mario.md).
An encoder reads one statement; the head is stored in rows of the embedding matrix that no text
uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rationalize.models.precision import autocast
from rationalize.text import whole_characters

MODEL = "liujch1998/vera"

_WEIGHT_ROW, _BIAS_ROW, _TEMPERATURE_ROW = 32099, 32098, 32097


class Vera:
    """P(a statement is true) = sigmoid((w . h + b) / T), with h the encoder's state at its end."""

    reads_question = False

    def __init__(
        self, encoder: Any, tokenizer: Any, weights_hash: str, *, batch_size: int = 32
    ) -> None:
        self.encoder = encoder.eval()
        self.tokenizer = tokenizer
        self.weights_hash = weights_hash
        self.batch_size = batch_size

    @classmethod
    def load(cls, model: str = MODEL) -> Vera:
        """Vera from the hub or a folder, in bfloat16 (10 GB)."""
        from transformers import AutoTokenizer, T5EncoderModel

        encoder = T5EncoderModel.from_pretrained(model, dtype=torch.bfloat16)
        version = getattr(encoder.config, "_commit_hash", None) or "local"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = AutoTokenizer.from_pretrained(model)
        return cls(encoder.to(device), tokenizer, f"{model}@{version}")

    def probabilities(
        self, statements: Sequence[str], question_ids: Sequence[str | None] | None = None
    ) -> list[float]:
        """One probability per statement, cut at 128 tokens; `question_ids` are ignored."""
        texts = [whole_characters(s.strip()) for s in statements]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of similar length
        probabilities = [0.0] * len(texts)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for i, p in zip(rows, self._batch([texts[i] for i in rows]), strict=True):
                probabilities[i] = p
        return probabilities

    @torch.no_grad()
    def _batch(self, texts: list[str]) -> list[float]:
        device = self.encoder.device
        batch = self.tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=128
        )
        mask = batch.attention_mask.to(device)
        with autocast(device):
            states = self.encoder(
                input_ids=batch.input_ids.to(device), attention_mask=mask
            ).last_hidden_state  # (B, T, d)
        last = states[torch.arange(len(texts), device=device), mask.sum(1) - 1].float()  # (B, d)
        embeddings = self.encoder.get_input_embeddings().weight.float()
        bias, temperature = embeddings[_BIAS_ROW, 0], embeddings[_TEMPERATURE_ROW, 0]
        return torch.sigmoid((last @ embeddings[_WEIGHT_ROW] + bias) / temperature).tolist()
