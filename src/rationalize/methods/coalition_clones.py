"""How different a coalition's variants are, before any preference is learned and after each round.

Their rationales for the same development questions, drawn as candidates are, so that what DPO made
of the variants is a comparison of two files. KL is taken on those draws: with `top_p` below 1 they
leave out what is unlikely, and it is not that of the whole distributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np

from rationalize.evaluation.clones import clone_rows, format_clones
from rationalize.methods.coalition_config import CoalitionConfig
from rationalize.methods.common import rollouts
from rationalize.models.answer_texts import Texts
from rationalize.models.choices import ChoiceScorer
from rationalize.models.scorers import AnswerFold
from rationalize.models.variants import Variants
from rationalize.records import Attempt, Question
from rationalize.runs import Run
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import question_seed, write_attempts
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig
from rationalize.training.objectives import response_logprobs

_ENOUGH = 64
"""Development questions that are asked: the first so many."""

Written = Mapping[str, Mapping[str, Attempt]]
"""By variant and question id."""


def log_clones(
    variants: Variants, dev: Sequence[Question], config: CoalitionConfig, run: Run, when: str,
    round: int,
) -> None:  # fmt: skip
    """Store and print a row per pair of variants; `when` is `tuned` or a round's name."""
    file = f"clones-{when}.json"
    asked = dev[:_ENOUGH]
    if len(config.names) < 2 or not asked or run.read_json(file) is not None:
        return
    sampling = replace(config.candidates.sampling, n=1)

    def written_by(name: str) -> list[Attempt]:
        with variants.active(name) as policy:
            return write_attempts(
                Sampler(policy), asked, sampling, split="dev",
                seed=question_seed(config.seed, name, "clones"), writer=name, mode="rationale",
                round=round, label=f"{name} writes dev, {when}",
            )  # fmt: skip

    shards = {n: rollouts(run, f"clones-{when}-{n}", partial(written_by, n)) for n in config.names}
    written = {name: {a.question_id: a for a in own} for name, own in shards.items()}
    rows = clone_rows(
        {name: {i: a.rationale for i, a in own.items()} for name, own in written.items()},
        _answers(variants, asked, written, config.instruction.texts),
        _divergences(variants, written, config.fit),
    )
    run.write_json(file, [{**row, "split": "dev"} for row in rows])
    print(f"variants on development questions, {when}:\n{format_clones(rows)}")


def _answers(
    variants: Variants, questions: Sequence[Question], written: Written, texts: Texts
) -> dict[str, dict[str, str | None]]:
    """What M_IFT answers given each variant's rationales, where there are choices."""
    chosen = [q for q in questions if q.choices]
    answers: dict[str, dict[str, str | None]] = {}
    with variants.base_policy() as policy:
        reader = ChoiceScorer(policy)
        for name, own in written.items():
            given = [own[q.id].rationale or None for q in chosen]
            found = AnswerFold(reader, reader).probabilities(chosen, given, texts)
            answers[name] = {
                q.id: (q.choices or ())[int(np.argmax(p))]
                for q, p in zip(chosen, found, strict=True)
            }
    return answers


def _divergences(
    variants: Variants, written: Written, config: FitConfig
) -> dict[tuple[str, str], float]:
    """KL per token of a variant from another, on the first one's texts."""
    logprobs: dict[tuple[str, str], float] = {}
    for reader in written:
        with variants.active(reader) as policy:
            maker = RowMaker(policy)
            for name, own in written.items():
                rows = [maker.attempt(a) for a in own.values() if a.completion]
                tokens = sum(len(row.response_ids) for row in rows)
                total = sum(response_logprobs(policy, rows, config))
                logprobs[name, reader] = total / max(1, tokens)
    return {(a, b): logprobs[a, a] - logprobs[a, b] for a, b in permutations(written, 2)}
