"""The choice scorer against one forward pass per choice over the full sequence, in one run.

    python benchmarks/choice_scorer.py --questions builtin --count 60

Both read the same (prompt, choice) pairs in batches of the same size, sorted by length, in the same
precision, and apply the lm-head to response positions only: what differs is what is computed twice.
The ceilings are ratios of token counts: with each prompt computed once for all its choices, and
with every common prefix computed once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from rationalize.answers import label
from rationalize.models.choices import ChoiceScorer, Continuation
from rationalize.models.forward import Row
from rationalize.models.logits import token_logprobs
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import autocast
from rationalize.models.trees import build_prefix_trees
from rationalize.questions import load_splits
from rationalize.templates import prompt_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--questions", default="builtin")
    parser.add_argument("--count", type=int, default=60, help="questions, each with its rationales")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor seconds of this process, for a machine that others use too",
    )
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    policy = load_policy(args.model)
    questions = load_splits(args.questions)["train"][: args.count]
    pairs = [
        (
            prompt_text("answer_from_rationale", q, r),
            [label(i) for i in range(len(q.choices or ()))],
        )
        for q in questions
        for r in q.rationales
    ]
    prompts, choices = [p for p, _ in pairs], [c for _, c in pairs]
    scorer = ChoiceScorer(policy, batch_tokens=args.batch_tokens)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    scorer.score(prompts[:4], choices[:4])
    ours, full = [], []
    for _ in range(args.repeats):  # in turn, so that a busy machine slows both
        started = clock()
        scores = scorer.score(prompts, choices)
        ours.append(clock() - started)
        started = clock()
        expected = one_pass_per_choice(policy, prompts, choices, args.batch_tokens)
        full.append(clock() - started)
    tokens = count_tokens(policy, prompts, choices, scorer.tree_tokens)
    ratio = statistics.median(f / o for f, o in zip(full, ours, strict=True))
    ceilings = {name: tokens["full"] / tokens[name] for name in ("prompt_once", "prefix_once")}
    gap = max(
        abs(s.logprob_sum - e)
        for own, others in zip(scores, expected, strict=True)
        for s, e in zip(own, others, strict=True)
    )
    result = {
        "prompts": len(prompts),
        "tokens": tokens,
        "seconds": {
            "ours": statistics.median(ours),
            "one_pass_per_choice": statistics.median(full),
        },
        "ratio": ratio,
        "ceiling": ceilings,
        "share_of_ceiling": {name: ratio / ceiling for name, ceiling in ceilings.items()},
        "largest_difference": gap,
        "clock": args.clock,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=1))


def one_pass_per_choice(
    policy: Policy, prompts: list[str], choices: list[list[str]], batch_tokens: int
) -> list[list[float]]:
    """Summed log-probability of each choice, EOS left out."""
    rows = [
        Row(tuple(policy.encode_prompt(p)), tuple(policy.encode_response(c)), tag=(i, j))
        for i, (p, own) in enumerate(zip(prompts, choices, strict=True))
        for j, c in enumerate(own)
    ]
    found = [[0.0] * len(own) for own in choices]
    batch: list[Row] = []
    sharing, policy.takes_trees = policy.takes_trees, False  # every row reads its own prompt
    with torch.no_grad(), autocast(policy.device):
        for row in sorted(rows, key=lambda r: r.length):
            if batch and row.length * (len(batch) + 1) > batch_tokens:
                _store(policy, batch, found)
                batch = []
            batch.append(row)
        _store(policy, batch, found)
    policy.takes_trees = sharing
    return found


def _store(policy: Policy, batch: list[Row], found: list[list[float]]) -> None:
    for row, logprobs in zip(batch, token_logprobs(policy, batch), strict=True):
        found[row.tag[0]][row.tag[1]] = logprobs[:-1].sum().item()


def count_tokens(
    policy: Policy, prompts: list[str], choices: list[list[str]], tree_tokens: int
) -> dict[str, int]:
    """Tokens that a forward pass reads: per choice, prompts once, common prefixes once."""
    groups = [
        [
            Continuation(tuple(policy.encode_prompt(p)), tuple(policy.encode_response(c)))
            for c in own
        ]
        for p, own in zip(prompts, choices, strict=True)
    ]
    flat = list(dict.fromkeys(c for group in groups for c in group))
    return {
        "full": sum(len(c.read) for group in groups for c in group),
        "prompt_once": sum(
            len(group[0].prompt) + sum(len(c.response) - 1 for c in group) for group in groups
        ),
        "prefix_once": sum(
            len(tree) for tree in build_prefix_trees([c.read for c in flat], tree_tokens)
        ),
    }


if __name__ == "__main__":
    main()
