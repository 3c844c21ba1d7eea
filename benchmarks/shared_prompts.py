"""Learning from several replies to a question: each prompt read once, against once per reply.

    python benchmarks/shared_prompts.py

Forward and backward of the reward model's score of 8 replies a question, and of the
log-probabilities of 2 (chosen and rejected, as DPO reads them), through the passes of the training
loop. Both sides run in turn on the same rows; their gradients must agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rationalize.models.forward import Row, micro_batches
from rationalize.models.heads import new_head, reply_scores
from rationalize.models.logits import token_logprobs
from rationalize.models.policy import Policy, load_policy
from rationalize.models.reward_model import reward_row
from rationalize.questions import load_splits
from rationalize.training.loop import FitConfig

Work = Callable[[Sequence[Row]], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--questions", default="builtin")
    parser.add_argument("--asked", type=int, default=8, help="questions in a step")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    policy = load_policy(args.model, device="cpu", tuning="full")
    scalar_head = new_head(policy).requires_grad_(False)
    works: dict[str, tuple[int, Work]] = {
        "reward model, 8 replies": (8, lambda rows: reply_scores(policy, scalar_head, rows).sum()),
        "DPO, 2 replies": (2, lambda rows: torch.cat(token_logprobs(policy, rows)).sum()),
    }
    for name, (replies, work) in works.items():
        rows = rows_of(policy, args.questions, args.asked, replies)
        gap = gradient_gap(policy, work, rows)
        if gap > 1e-3:
            raise SystemExit(f"{name}: the gradients differ by a share of {gap}")
        pairs = [
            tuple(seconds(policy, work, rows, share) for share in (True, False))
            for _ in range(args.repeats + 1)
        ][1:]
        result = {
            "work": name,
            "ratio": statistics.median(alone / shared for shared, alone in pairs),
            "ratios": [alone / shared for shared, alone in pairs],
            "seconds_shared": statistics.median(shared for shared, _ in pairs),
            "prompt_tokens": statistics.mean(len(row.prompt_ids) for row in rows),
            "reply_tokens": statistics.mean(len(row.response_ids) for row in rows),
            "gradient_gap": gap,
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(result, indent=1), flush=True)


def rows_of(policy: Policy, source: str, asked: int, replies: int) -> list[Row]:
    """The first questions, each with replies that teachers wrote to it and to those after it."""
    questions = [q for q in load_splits(source)["train"] if q.rationales]
    texts = [text for q in questions for text in q.rationales]
    return [
        reward_row(policy, q, texts[(2 * i + j) % len(texts)])
        for i, q in enumerate(questions[:asked])
        for j in range(replies)
    ]


def gradient_gap(policy: Policy, work: Work, rows: Sequence[Row]) -> float:
    """How far the two sides' gradients are apart in float32, as a share of their norm."""
    found = []
    policy.precision = "float32"
    for share in (True, False):
        learn(policy, work, rows, share)
        found.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
        policy.model.zero_grad()
    policy.precision = "auto"
    return float((found[0] - found[1]).norm() / found[1].norm())


def seconds(policy: Policy, work: Work, rows: Sequence[Row], share: bool) -> float:
    began = time.perf_counter()
    learn(policy, work, rows, share)
    policy.model.zero_grad()
    return time.perf_counter() - began


def learn(policy: Policy, work: Work, rows: Sequence[Row], share: bool) -> None:
    policy.takes_trees = share
    for passed in micro_batches(
        rows, FitConfig().pass_tokens(policy.device), lambda row: row.prompt_ids
    ):
        with policy.autocast():
            total = work(passed)
        total.backward()


if __name__ == "__main__":
    main()
