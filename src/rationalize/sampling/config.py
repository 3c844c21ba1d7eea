"""How completions are written. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rationalize.errors import UsageError


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are written."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this."""
    top_k: int = 0
    """Keep this many tokens, before `top_p`; 0: all."""
    max_new_tokens: int = 64
    """Length limit, in tokens."""
    n: int = 1
    """Completions per prompt."""
    beams: int = 1
    """Above 1: beam search with so many beams, of which the best `n` are returned; no sampling."""

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("n", self.n >= 1, "at least 1"),
            ("beams", self.beams >= 1, "at least 1"),
            ("n", self.beams == 1 or self.n <= self.beams, f"at most `beams`, {self.beams}"),
        ):
            if not good:
                raise UsageError(f"sampling.{name} is {getattr(self, name)}; expected {expected}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def as_dict(self) -> dict[str, Any]:
        """For an attempt's provenance."""
        return dataclasses.asdict(self)
