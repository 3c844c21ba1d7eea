"""Re-binning a large pool: every attempt's bin under every reward, in seconds.

    python benchmarks/rebinning.py --attempts 100000

Three rewards are cut by rank, one by value; scores have ties, as diversity has. Against it: the
whole pool sorted anew for each reward in plain Python, with a copy of all its lists for the data
set, as MaRio's released code does; with ties split by position both must agree. `pool` is what a
MaRio round pays: the scores gathered from the attempts, too.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from rationalize.methods.mario import control_bins
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.pool import Pool
from rationalize.records import Attempt
from rationalize.signals.bins import rank_bins, value_bins

RANKED = ("consistency", "plausibility", "diversity")
K = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    scores = draw_scores(args.attempts)
    texts = [
        (f"question {i % 2000}", f"rationale {i}. So the answer is (A).")
        for i in range(args.attempts)
    ]
    ours, plain, pooled = [], [], []
    for _ in range(args.repeats):  # in turn, so that a busy machine slows both
        ours.append(timed(lambda: rebin(scores)))
        plain.append(timed(lambda: plain_rebin(texts, scores)))
    rows, expected = rebin(scores, "released"), plain_rebin(texts, scores)
    for name in RANKED:
        if rows[name].tolist() != expected[name]:
            raise SystemExit(f"the bins of {name} differ")
    attempts = attempts_of(texts, scores)
    for _ in range(args.repeats):
        pool = empty_pool()
        pooled.append(timed(lambda pool=pool: pool.add(attempts, (*RANKED, "correctness"))))
    result = {
        "attempts": args.attempts,
        "rewards": len(scores),
        "seconds": {
            "ours": statistics.median(ours),
            "plain": statistics.median(plain),
            "pool": statistics.median(pooled),
        },
        "ratio": statistics.median(p / o for p, o in zip(plain, ours, strict=True)),
    }
    print(json.dumps(result, indent=1))


def draw_scores(n: int) -> dict[str, np.ndarray]:
    """Half of the diversity scores are 1, the others have few values; the rest is continuous."""
    rng = np.random.default_rng(0)
    return {
        "consistency": rng.uniform(-1, 1, n),
        "plausibility": rng.beta(5, 2, n),
        "diversity": np.where(rng.random(n) < 0.5, 1.0, np.round(rng.uniform(0.5, 1, n), 3)),
        "correctness": rng.integers(0, 2, n).astype(np.float64),
    }


def rebin(scores: dict[str, np.ndarray], ties: str = "together") -> dict[str, np.ndarray]:
    bins = {name: rank_bins(scores[name], K, ties) for name in RANKED}
    return {**bins, "correctness": value_bins(scores["correctness"], (1.0, 0.0))}


def plain_rebin(
    texts: list[tuple[str, str]], scores: dict[str, np.ndarray]
) -> dict[str, list[int]]:
    """Bins in the order of the attempts."""
    pool = {
        "prompts": [prompt for prompt, _ in texts],
        "responses": [response for _, response in texts],
        **{name: own.tolist() for name, own in scores.items()},
    }
    n = len(texts)
    bins: dict[str, list[int]] = {}
    for name in RANKED:
        order = sorted(range(n), key=lambda i, own=pool[name]: own[i], reverse=True)  # stable
        cut = [min(rank // (n // K), K - 1) for rank in range(n)]
        found = dict(zip(order, cut))
        bins[name] = [found[i] for i in range(n)]
    bins["correctness"] = [0 if score == 1.0 else 1 for score in pool["correctness"]]
    copy.deepcopy({**pool, "bins": bins})
    return bins


def attempts_of(texts: list[tuple[str, str]], scores: dict[str, np.ndarray]) -> list[Attempt]:
    names = list(scores)
    rows = zip(texts, *(s.tolist() for s in scores.values()), strict=True)
    return [
        Attempt(
            id=str(i), question_id=prompt, mode="rationale_answer", prompt=prompt,
            completion=response, rationale=response, prediction="A", gold="A", parsed=True,
            finish="stop", writer="policy", model="none", round=0, step=0, split="train", seed=0,
            n_tokens=10, rewards=dict(zip(names, values, strict=True)),
        )
        for i, ((prompt, response), *values) in enumerate(rows)
    ]  # fmt: skip


def empty_pool() -> Pool:
    """A pool of the four rewards; of a reward it asks levels and range alone."""
    config = MarioConfig(rewards=(*RANKED, "correctness"), bins=K)
    suite: Any = {name: SimpleNamespace(levels=None, range=(-1.0, 1.0)) for name in RANKED}
    suite["correctness"] = SimpleNamespace(levels=(1.0, 0.0), range=(0.0, 1.0))
    return Pool(config, suite, control_bins(config, suite), seed=0)


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
