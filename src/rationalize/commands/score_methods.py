"""Attempts of several methods on several sets, scored into a run that a second start resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rationalize.commands.scored_file import questions_digest, source_digest
from rationalize.errors import UserError
from rationalize.progress import progress_bar
from rationalize.records import Attempt, Question, attempt_row
from rationalize.runs import slug

if TYPE_CHECKING:
    from rationalize.evaluation.compare import Methods
    from rationalize.rewards import RewardSuite
    from rationalize.runs import Run

_CHUNK = 64
"""Attempts scored together."""


def same_inputs(
    run: Run, questions: Mapping[str, Question], methods: Methods, suite: RewardSuite
) -> None:
    """Raise `UserError` where files or scorers have changed since the run's first start."""
    inputs = {"questions": questions_digest(questions.values())}
    for method, splits in methods.items():
        attempts = [a for seeds in splits.values() for group in seeds.values() for a in group]
        text = json.dumps([attempt_row(a) for a in attempts], default=str).encode()
        inputs[f"rationales of {method}"] = hashlib.blake2b(text, digest_size=16).hexdigest()
    for reward in suite.rewards:
        version = [reward.version, reward.scorer_hash, source_digest(reward)]
        inputs[f"the reward {reward.name}"] = json.dumps(version)
    before = run.done("inputs")
    if before is None:
        run.finish("inputs", **inputs)
    elif changed := [k for k in {**before, **inputs} if before.get(k) != inputs.get(k)]:
        raise UserError(
            f"{run.path} was begun with other inputs: {', '.join(changed)}; restore them, or "
            "choose another folder"
        )


def score_methods(
    run: Run, suite: RewardSuite, methods: Methods, questions: Mapping[str, Question]
) -> Methods:
    """The attempts with every reward's score: method -> set -> seed -> attempts.

    Each becomes a shard of the run, which a second start reads back. Within an unfinished shard,
    the scores in the suite's cache are not computed again.
    """
    cells = [seeds for splits in methods.values() for seeds in splits.values()]
    total, done = sum(len(attempts) for seeds in cells for attempts in seeds.values()), 0
    scored: Methods = {}
    with progress_bar("score", "rationales") as progress:
        for number, (method, splits) in enumerate(methods.items()):
            for name, seeds in splits.items():
                for seed, attempts in seeds.items():
                    shard = f"scored-{slug(name)}-{number}-{slug(method)}-{seed}"
                    if not run.has_shard(shard):
                        rows: list[Attempt] = []
                        for i in range(0, len(attempts), _CHUNK):
                            rows += suite.score(attempts[i : i + _CHUNK], questions)
                            progress(done + len(rows), total, 0)
                        run.append(rows, shard)
                    done += len(attempts)
                    scored.setdefault(method, {}).setdefault(name, {})[seed] = run.read_shard(shard)
    return scored
