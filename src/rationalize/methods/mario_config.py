"""MaRio's settings, and its schedule: which rewards have a token at which step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rationalize.config.checks import at_least, finite
from rationalize.errors import UsageError
from rationalize.methods.sft import LORA_FIT
from rationalize.models.control import ControlInit
from rationalize.sampling.local import SamplingConfig
from rationalize.sampling.writing import Teacher
from rationalize.signals.bins import Ties
from rationalize.training.loop import ControlFitConfig
from rationalize.training.losses import KLDirection

Variant = Literal["classic", "additive", "additive-left", "product", "product-raw"]


RELEASED: dict[str, Any] = {
    "steps": 50_000, "sample_interval": 4_000, "beta": 0.1, "precision": "float32",
    "fit": {"learning_rate": 3e-5, "batch_size": 4, "warmup": 0.02, "max_grad_norm": 1.0},
    "sampling": {"temperature": 1.0, "top_p": 0.7, "top_k": 50, "max_new_tokens": 256},
    "sft": {
        "epochs": 25.0,
        "fit": {"learning_rate": 3e-5, "batch_size": 4, "max_grad_norm": 0.5, "warmup": 1_000},
    },
}  # fmt: skip
"""The schedule of the released code, for MaRio and for FILT-ACC."""


@dataclass(frozen=True)
class MarioConfig:
    """MaRio."""

    rewards: tuple[str, ...] = ("consistency", "correctness", "plausibility", "diversity")
    """Rewards with a control token, in the order of the prefix."""
    bins: int = 5
    """Bins K of a continuous reward; a discrete one has a bin per value."""
    filters: dict[str, float] = field(default_factory=dict)
    """Pool attempts below this score are not learned from. A reward named here and in `rewards` is
    the code's `filter_quark`.
    """
    variant: Variant = "classic"
    """When rewards enter: all at once; one by one, at the right end of the prefix (next to the
    text) or at the left; multiplied into one, mapped to [0, 1] by their range or raw (as the
    released code's; the preset `released` leaves this to you).
    """
    entries: tuple[int, ...] = ()
    """ADDITIVE: the step at which each reward enters, earliest first (0 0 100 200: two, then one by
    one); empty: one by one, spread evenly over the run.
    """
    ties: Ties = "together"
    """Whether equal scores share a bin."""
    over_draw: float = 3.0
    """Rows are drawn evenly over rewards and bins, but no bin more than this times its share of the
    pool; 1: evenly over attempts (as released), 0: no limit.
    """
    bins_within: Literal["pool", "question", "nothing"] = "pool"
    """Whether an attempt is ranked among all attempts, or by how it differs from the others at its
    question; `nothing`: bins change places by lot, so that tokens mean nothing (an ablation).
    """
    beta: float = 0.1
    """Weight of the KL to the reference."""
    alpha: float = 0.0
    """Weight of the entropy bonus."""
    contrast: float = 0.0
    """Weight of telling a row's tokens from others (`contrast_loss`, GeDi's); 0: the paper's."""
    kl: KLDirection = "reverse"
    """KL(policy || reference) as in the code; `forward`: KL(reference || policy), the paper's."""
    steps: int = 600
    """Optimiser steps."""
    sample_interval: int = 200
    """Steps between two explorations; one happens at step 0."""
    prompts: int = 0
    """Questions that are written to per exploration; 0: every training question."""
    teacher: Teacher = "correct"
    """Teacher samples in the pool at step 0: the correct ones (as released), all, or none."""
    control_copies: int = 1
    """Tokens per control."""
    control_init: ControlInit = "prompt_end"
    """How control rows start: as the token before them, from all rows' mean and deviation (as
    released), or from words.
    """
    guidance: float = 0.0
    """Add this times (log-probability under the best tokens minus under the worst); 0: paper's."""
    select_by: str = "nrg"
    """Development metric that selects the checkpoint: nrg, accuracy or a reward's name."""
    token_questions: int = 60
    """Development questions on which the tokens are measured: what is reached under them, and
    whether they rank the start's attempts; 0: none.
    """
    fit: ControlFitConfig = ControlFitConfig(learning_rate=5e-5, control_factor=20.0, batch_size=8)
    """How the policy learns."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64)
    """How rollouts are written."""

    CONTROLS: ClassVar[bool] = True
    """Attempts are written under control tokens."""
    LORA: ClassVar[dict[str, Any]] = {
        "fit": {"learning_rate": 2e-4, "control_factor": 5.0}  # control rows learn as before
    }
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "lora": {"tuning": "lora", **LORA, "sft": LORA_FIT},
        "released": {
            **RELEASED, "ties": "released", "over_draw": 1.0, "alpha": 0.0,
            "control_init": "statistics", "fit": {**RELEASED["fit"], "control_factor": 1.0},
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        """What can be known to be wrong before anything is paid for. Raises `UsageError`."""
        at_least(self, 1, "steps", "sample_interval", "control_copies")
        at_least(self, 2, "bins")
        at_least(self, 0, "entries", "prompts", "beta", "alpha", "contrast")
        at_least(self, 0, "over_draw", "token_questions")
        finite(self, "guidance", "filters")
        metrics = {"nrg", "accuracy", *self.rewards} - {"correctness"}
        entries = entry_steps(self) or (0,)
        for ok, message in (
            (len(self.rewards) > 0, "rewards is empty; name at least one"),
            (
                self.select_by in metrics,
                f"select_by is {self.select_by!r}; expected one of {', '.join(sorted(metrics))}",
            ),
            (
                len(entries) == len(self.rewards),
                f"entries has {len(entries)} steps; expected one for each of the "
                f"{len(self.rewards)} rewards",
            ),
            (
                (0, *entries) == (entries[0], *sorted(entries)),
                f"entries is {list(entries)}; expected steps in ascending order from 0 on",
            ),
            (
                entries[-1] < self.steps or not self.additive,
                f"the last reward would enter at step {entries[-1]} of {self.steps}; lower entries",
            ),
        ):
            if not ok:
                raise UsageError(f"mario: {message}")

    @property
    def additive(self) -> bool:
        return self.variant in ("additive", "additive-left")

    @property
    def product(self) -> bool:
        return self.variant in ("product", "product-raw")


def best_prefix(config: MarioConfig) -> dict[str, int]:
    """The tokens that a finished policy is asked under: the best one of every reward."""
    return dict.fromkeys(active_when_sampling(config.steps, config), 0)


def active_when_training(step: int, config: MarioConfig) -> tuple[str, ...]:
    """Rewards whose token is in the prefix of training step `step`."""
    if config.product:
        return ("product",)
    if config.variant == "classic":
        return config.rewards
    return _cut(config, _entered(step, config))


def active_when_sampling(step: int, config: MarioConfig) -> tuple[str, ...]:
    """Rewards in the prefix when the policy writes at `step`: those that were trained by then.

    At step 0 the policy is the reference and writes without tokens.
    """
    if step == 0:
        return ()
    if not config.additive:
        return active_when_training(step, config)
    return _cut(config, _entered(step - 1, config))


def _entered(step: int, config: MarioConfig) -> int:
    """How many rewards have entered by `step`: min(R, floor(s / I) + 1) at an interval of I steps,
    or whole groups (3.3).
    """
    return sum(step >= entry for entry in entry_steps(config))


def entry_steps(config: MarioConfig) -> tuple[int, ...]:
    """The step at which each reward enters, earliest first."""
    count = len(config.rewards)
    return config.entries or tuple(i * -(-config.steps // count) for i in range(count))


def _cut(config: MarioConfig, count: int) -> tuple[str, ...]:
    if config.variant == "additive":
        return config.rewards[:count]
    return config.rewards[len(config.rewards) - count :]
