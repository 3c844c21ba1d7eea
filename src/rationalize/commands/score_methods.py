"""Attempts of several methods on several sets, scored into a run: a second start goes on."""

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
"""Attempts scored together: what a kill can cost."""


def same_inputs(
    run: Run, questions: Mapping[str, Question], methods: Methods, suite: RewardSuite
) -> None:
    """Refuse to go on where files or scorers have changed since the run's first start."""
    inputs = {"questions": questions_digest(questions.values())}
    for method, splits in methods.items():
        rows = [attempt_row(a) for seeds in splits.values() for own in seeds.values() for a in own]
        text = json.dumps(rows, default=str).encode()
        inputs[f"rationales of {method}"] = hashlib.blake2b(text, digest_size=16).hexdigest()
    for reward in suite.rewards:
        facts = [reward.version, reward.scorer_hash, source_digest(reward)]
        inputs[f"the reward {reward.name}"] = json.dumps(facts)
    before = run.done("inputs")
    if before is None:
        run.finish("inputs", **inputs)
    elif other := [k for k in {**before, **inputs} if before.get(k) != inputs.get(k)]:
        raise UserError(
            f"{run.path} was begun with other inputs: {', '.join(other)}; restore them, or choose "
            "another folder"
        )


def score_methods(
    run: Run, suite: RewardSuite, methods: Methods, questions: Mapping[str, Question]
) -> Methods:
    """Every attempt with every reward, a shard per method and set; scores in the cache are not
    asked for again.
    """
    everything = sum(len(a) for s in methods.values() for o in s.values() for a in o.values())
    done = 0
    found: Methods = {}
    with progress_bar("score", "rationales") as progress:
        for number, (method, splits) in enumerate(methods.items()):
            for name, seeds in splits.items():
                for seed, attempts in seeds.items():
                    shard = f"scored-{slug(name)}-{number}-{slug(method)}-{seed}"
                    if not run.has_shard(shard):
                        chunks = [attempts[i : i + _CHUNK] for i in range(0, len(attempts), _CHUNK)]
                        scored: list[Attempt] = []
                        for chunk in chunks:
                            scored += suite.score(chunk, questions)
                            progress(done + len(scored), everything, 0)
                        run.append(scored, shard)
                    done += len(attempts)
                    found.setdefault(method, {}).setdefault(name, {})[seed] = run.read_shard(shard)
    return found
