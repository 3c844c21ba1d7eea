"""Learning from preference pairs: DPO, with an optional NLL term on the chosen reply.

What was learned shows on pairs of other questions, by DPO's implicit reward
`beta (log pi(y) - log pi_ref(y))` (arXiv 2305.18290, equation 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

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
    held_out: Sequence[PairTexts] = (), length_normalized: bool = False,
) -> list[float]:  # fmt: skip
    """Train `policy` in place by DPO; the reference is the policy as it is now.

    `config.batch_size` counts rows: a batch has half as many pairs. Resumes `stage` of `run`.
    Returns the margin of each pair of `held_out` after learning: the log-ratio (policy over
    reference, in nats; per token if `length_normalized`) of its chosen reply less that of its
    rejected one.
    """
    rows, unseen = pair_rows(policy, pairs), pair_rows(policy, held_out)
    # the reference's log-probabilities, once, before anything is learned
    references = response_logprobs(policy, rows, config)
    unseen_references = response_logprobs(policy, unseen, config)
    tagged = [
        replace(row, tag=PairTag(0, not i % 2, reference, pairs[i // 2].kind))
        for i, (row, reference) in enumerate(zip(rows, references, strict=True))
    ]
    row_pairs = [tagged[i : i + 2] for i in range(0, len(tagged), 2)]
    size = max(1, config.batch_size // 2)

    def batch_at(step: int) -> list[Row]:
        return grouped_batch(row_pairs, size, step, seed)

    steps = max(1, math.ceil(epochs * len(pairs) / size))
    loss = dpo(beta=beta, nll_weight=nll_weight, length_normalized=length_normalized)
    fit(policy, loss, batch_at, config, stage, steps=steps)
    learned = response_logprobs(policy, unseen, config)
    ratios = [
        (now - then) / (len(row.response_ids) if length_normalized else 1)
        for row, now, then in zip(unseen, learned, unseen_references, strict=True)
    ]
    return [ratios[i] - ratios[i + 1] for i in range(0, len(ratios), 2)]


def pair_rows(policy: Policy, pairs: Sequence[PairTexts]) -> list[Row]:
    """Rows that alternate: chosen, rejected, chosen, rejected, .."""
    maker = RowMaker(policy)
    return [
        maker.text(pair.prompt, text, eos=ends)
        for pair in pairs
        for text, ends in ((pair.chosen, pair.chosen_ends), (pair.rejected, pair.rejected_ends))
    ]
