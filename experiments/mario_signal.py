"""Can a reward be told from a reply at all? What control tokens can carry at most, cheaply.

    python experiments/mario_signal.py --out runs/mario-links

Ridge regression from the pool of `mario_links.py prepare` to its held-out attempts, on the reply's
words, and with `--states` on the hidden states of the start.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mario_links import REWARDS, held_out, open_start, pool_of, store

from rationalize.evaluation.token_auc import concordance
from rationalize.models.forward import collate, hidden_at_response, micro_batches
from rationalize.records import Attempt
from rationalize.signals.variance import centred_within, intraclass_correlation
from rationalize.training.batches import RowMaker


def words(out: Path, results: str) -> None:
    """Can the reward be told from the reply's words? Ridge regression on words and their pairs."""
    run, exp = open_start(out)
    with run:
        pool, dev = pool_of(exp), held_out(exp)
    counts = [grams(a.completion) for a in (*pool, *dev)]
    often = Counter(gram for found in counts[: len(pool)] for gram in found)
    place = {gram: i for i, gram in enumerate(g for g, n in often.items() if n >= 5)}
    x = np.zeros((len(counts), len(place)))
    for row, found in zip(x, counts, strict=True):
        for gram in found.keys() & place.keys():
            row[place[gram]] = np.log1p(found[gram])
    rows = told(pool, dev, x[: len(pool)], x[len(pool) :])
    store("told", "ridge on the reply's words", rows, results)


def grams(reply: str) -> Counter[str]:
    """Words, pairs of them, their number and how many of the pairs differ."""
    found = re.findall(r"\w+|[^\w\s]", reply.lower())
    pairs = list(pairwise(found))
    same = {"length": len(found), "distinct": round(20 * len(set(pairs)) / max(1, len(pairs)))}
    return Counter(found) + Counter(map(" ".join, pairs)) + Counter(same)


def features(out: Path, results: str) -> None:
    """Can the start tell the reward? Ridge regression on its states over the reply."""
    run, exp = open_start(out)
    with run:
        policy = exp.load_policy(exp.run.path / "policies" / "sft")
        pool, dev = pool_of(exp), held_out(exp)
        states = [last_states(policy, attempts) for attempts in (pool, dev)]
    store("told", "ridge on the start's states", told(pool, dev, *states), results)


def told(
    pool: Sequence[Attempt], dev: Sequence[Attempt], x_pool: np.ndarray, x_dev: np.ndarray
) -> list[dict[str, Any]]:
    """How well each reward of held-out attempts is predicted from their features (N, d)."""
    asked_pool, asked_dev = ([a.question_id for a in part] for part in (pool, dev))
    rows = []
    for reward in REWARDS:
        y, held = (np.array([a.rewards[reward] or 0.0 for a in p]) for p in (pool, dev))
        targets = {"pool": y, "question": centred_within(y, asked_pool)}
        for name, target in targets.items():
            predicted = ridge(x_pool, target, asked_pool, x_dev)
            facts = {
                "reward": reward, "taught": name, "attempts": len(dev),
                "questions": len(set(asked_dev)), "mean": float(held.mean()),
                "deviation": float(held.std()), "icc": intraclass_correlation(held, asked_dev),
            }  # fmt: skip
            rows.append({**facts, **concordance(held, predicted, asked_dev)})
    return rows


@torch.no_grad()
def last_states(policy: Any, attempts: Sequence[Attempt]) -> np.ndarray:
    """Mean and last hidden state of every response, (N, 2 d)."""
    maker = RowMaker(policy)
    rows = [replace(maker.attempt(a), tag=i) for i, a in enumerate(attempts)]
    found: dict[int, np.ndarray] = {}
    for passed in micro_batches(rows, 2048):
        with policy.autocast():
            hidden_Nd = hidden_at_response(policy, collate(passed, policy)).float()
        for row, part in zip(
            passed, hidden_Nd.split([len(r.response_ids) for r in passed]), strict=True
        ):
            found[row.tag] = torch.cat([part.mean(0), part[-1]]).numpy()
    return np.stack([found[i] for i in range(len(attempts))])


def ridge(x: np.ndarray, y: np.ndarray, groups: Sequence[str], held: np.ndarray) -> np.ndarray:
    """Ridge predictions; the penalty is the best of five on a fifth of the pool's questions."""
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, held = (x - mean) / scale, (held - mean) / scale
    names = sorted(set(groups))
    last = np.isin(np.array(groups), names[::5])

    def solve(x: np.ndarray, y: np.ndarray, penalty: float, at: np.ndarray) -> np.ndarray:
        kernel = x @ x.T + penalty * x.shape[1] * np.eye(len(x))
        return at @ (x.T @ np.linalg.solve(kernel, y - y.mean())) + y.mean()

    def error(penalty: float) -> float:
        return float(((solve(x[~last], y[~last], penalty, x[last]) - y[last]) ** 2).mean())

    return solve(x, y, min((0.1, 1.0, 10.0, 100.0, 1000.0), key=error), held)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--states", action="store_true")
    parser.add_argument("--results", default="mario_links", metavar="NAME")
    args = parser.parse_args()
    (features if args.states else words)(args.out, args.results)


if __name__ == "__main__":
    main()
