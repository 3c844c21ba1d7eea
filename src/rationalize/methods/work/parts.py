"""The kinds of work that a stage is made of. Lengths are mean tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Loss = Literal["nll", "quark", "dpo", "grpo", "ppo", "rank", "statements", "choice"]
"""What is learned by; each is measured with its own objective."""

Learner = Literal["policy", "scorer", "adapter"]
"""What learns: the policy as `tuning` says; the upper layers of a scorer; an adapter over frozen
weights (a variant of COALITION).
"""

Reader = Literal["choices", "statements", "fluency", "logprobs", "rank"]
"""What a pass without a gradient is for: how likely each choice is, whether a statement is true,
how likely the base model finds a rationale, how likely a policy a reply, what a reward model says.
"""


MODELS = "models"
"""The stage of what no stage does: models that are read, the export."""


@dataclass(frozen=True)
class Writes:
    """Replies to questions."""

    stage: str
    questions: int
    n: int
    """Replies to each; greedy replies are written once."""
    prompt: float
    reply: float
    limit: int
    """Longest reply."""
    top_p: float = 1.0

    @property
    def replies(self) -> int:
        return self.questions * self.n

    @property
    def tokens(self) -> float:
        return self.replies * self.reply


@dataclass(frozen=True)
class Learns:
    """Optimiser steps."""

    stage: str
    loss: Loss
    steps: float
    rows: float
    """Rows in a step."""
    prompt: float
    reply: float
    learner: Learner = "policy"
    together: int = 1
    """Rows of a step that share a prompt."""
    micro_tokens: int = 2048
    """Most tokens of one pass."""

    @property
    def tokens(self) -> float:
        """Tokens of prompts and replies, as the learning loop counts them."""
        return self.steps * self.rows * (self.prompt + self.reply)


@dataclass(frozen=True)
class Reads:
    """Passes without a gradient."""

    stage: str
    reader: Reader
    rows: float
    prompt: float
    reply: float
    """Of all that is read after the prompt, such as the choices."""
    together: float = 1.0
    """Rows of a pass that share a prompt, which is read once for them."""
    remembered: str = ""
    """What is read, where a second reading is answered from memory."""

    @property
    def tokens(self) -> float:
        """Tokens that pass through the model."""
        return self.rows * (self.prompt / self.together + self.reply)


@dataclass(frozen=True)
class Stores:
    """Weights on the disk, in whole models; an adapter counts as none."""

    stage: str
    kept: float = 0.0
    """Models that stay in the run."""
    passing: float = 0.0
    """Models that are written and deleted: the best so far, a checkpoint."""
    loads: float = 0.0
    """Models that are read."""
    half: bool = False
    """Whether what stays is in bfloat16."""


Work: TypeAlias = Writes | Learns | Reads | Stores
