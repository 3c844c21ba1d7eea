"""Learning from preference pairs: DPO, with an optional NLL term on the chosen reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rationalize.models.forward import Row
from rationalize.runs import Stage
from rationalize.training.batches import RowMaker, grouped_batch
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import PairTag, dpo, response_logprobs

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


class PairTexts(NamedTuple):
    """A preference between two replies to a prompt."""

    prompt: str
    chosen: str
    rejected: str
    kind: str = "pair"
    """Some metrics are logged per kind."""
    chosen_ends: bool = True
    """Whether the reply ended by itself; a reply that was cut gets no EOS."""
    rejected_ends: bool = True


def learn_pairs(
    policy: Policy, pairs: Sequence[PairTexts], config: FitConfig, *, beta: float,
    nll_weight: float, epochs: float, stage: Stage, seed: int | Sequence[int],
) -> None:  # fmt: skip
    """Train `policy` in place by DPO; the reference is the policy as it is now.

    `config.batch_size` counts rows: a batch has half as many pairs. Resumes `stage` of `run`.
    """
    rows = _pair_rows(policy, pairs)
    # the reference's log-probabilities, once, before anything is learned
    references = response_logprobs(policy, rows, config)
    tagged = [
        replace(row, tag=PairTag(0, not i % 2, reference, pairs[i // 2].kind))
        for i, (row, reference) in enumerate(zip(rows, references, strict=True))
    ]
    row_pairs = [tagged[i : i + 2] for i in range(0, len(tagged), 2)]
    size = max(1, config.batch_size // 2)

    def batch_at(step: int) -> list[Row]:
        return grouped_batch(row_pairs, size, step, seed)

    fit(
        policy, dpo(beta=beta, nll_weight=nll_weight), batch_at, config, stage,
        steps=max(1, math.ceil(epochs * len(pairs) / size)),
    )  # fmt: skip


def logprob_gaps(
    policy: Policy, pairs: Sequence[PairTexts], config: FitConfig
) -> list[float]:  # fmt: skip
    """Per pair log p(chosen) - log p(rejected), in nats, under the policy as it is."""
    logprobs = response_logprobs(policy, _pair_rows(policy, pairs), config)
    return [
        chosen - rejected for chosen, rejected in zip(logprobs[::2], logprobs[1::2], strict=True)
    ]


def order_facts(before_P: Sequence[float], after_P: Sequence[float]) -> dict[str, Any]:
    """How pairs that were not learned from are ordered, from `logprob_gaps` before and after.

    `accuracy` is the share whose gap grew: DPO's implicit reward prefers the chosen text. `before`
    and `after` are the shares whose chosen text is the likelier one. None without pairs.
    """
    n = len(before_P)

    def share(of: Sequence[bool]) -> float | None:
        return sum(of) / n if n else None

    return {
        "n": n,
        "before": share([b > 0 for b in before_P]),
        "after": share([a > 0 for a in after_P]),
        "accuracy": share([a > b for b, a in zip(before_P, after_P, strict=True)]),
    }


def _pair_rows(policy: Policy, pairs: Sequence[PairTexts]) -> list[Row]:
    """Rows in turn: chosen, rejected, chosen, rejected, .."""
    maker = RowMaker(policy)
    return [
        maker.text(pair.prompt, text, eos=ends)
        for pair in pairs
        for text, ends in ((pair.chosen, pair.chosen_ends), (pair.rejected, pair.rejected_ends))
    ]
