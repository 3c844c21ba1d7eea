"""Settings of both samplers. No torch here."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from rationalize.errors import UsageError
from rationalize.templates import DEFAULT_SYSTEM


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
    weights: Literal["auto", "int8"] = "auto"
    """Weights that replies are computed with: `auto`, bfloat16 where the processor has it; `int8`,
    faster and rounded more, on processors with VNNI.
    """

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("temperature", 0 <= self.temperature < float("inf"), "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("n", self.n >= 1, "at least 1"),
            ("beams", self.beams >= 1, "at least 1"),
            ("n", self.beams == 1 or self.n <= self.beams, f"at most `beams`, {self.beams}"),
            ("weights", self.weights == "auto" or self.beams == 1, "auto where beams are searched"),
        ):
            if not good:
                raise UsageError(f"sampling.{name} is {getattr(self, name)}; expected {expected}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def most_texts(self) -> float:
        """How many different texts a prompt can have: one greedily, one a beam, else any number."""
        return self.beams if self.beams > 1 else 1 if self.greedy else math.inf

    def as_dict(self) -> dict[str, Any]:
        """For an attempt's provenance; `weights` where they are not the usual ones."""
        settings = dataclasses.asdict(self)
        return {n: v for n, v in settings.items() if n != "weights" or v != "auto"}


@dataclass(frozen=True)
class HttpConfig:
    """How requests to an OpenAI-style server are made."""

    endpoint: Literal["chat", "completions"] = "chat"
    """`chat`, or `completions`: plain text, for base models."""
    system: str = DEFAULT_SYSTEM
    """System message of a chat; empty: none."""
    fields: dict[str, str] = field(default_factory=dict)
    """Further fields of a request, as JSON: `min_p=0.1`; `seed=null` leaves one out."""
    concurrency: int = 8
    """Requests in flight at once."""
    timeout: float = 600.0
    """Seconds until an answer must be complete."""
    key_variable: str = "RATIONALIZE_API_KEY"
    """Environment variable that holds the server's API key, if it wants one."""
    key_header: Literal["authorization", "api-key", "x-api-key", "x-goog-api-key"] = "authorization"
    """Header that carries the key: `authorization` (as `Bearer KEY`), or one with the key alone."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or not 0 < self.timeout < float("inf"):
            raise UsageError(
                f"http: found concurrency {self.concurrency} and timeout {self.timeout:g}; "
                "expected at least 1 and a number of seconds above 0"
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise UsageError(  # does not show the value, which may be a key
                "http.key_variable: expected the name of an environment variable, not a key itself"
            )

    @property
    def reply_settings(self) -> dict[str, Any]:
        """The settings that replies depend on. The others may change when a run is resumed."""
        return {"endpoint": self.endpoint, "system": self.system, "fields": self.fields}
