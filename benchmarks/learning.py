"""Learning steps on rows of one length, as a share of what the matrix products alone would take.

    OMP_NUM_THREADS=2 python benchmarks/learning.py
    OMP_NUM_THREADS=2 python benchmarks/learning.py --model experiments/qwen --steps 3

In turn, in one process: a step of the training loop; a plain loop (transformers' model with labels,
autocast, fused AdamW); and the products of the model's own matrices alone, forward and backward in
bfloat16 over as many tokens, which is the ceiling. Every row is 192 tokens, all but the first of
them learned. Both loops learn the same rows from the same weights, and their first losses agree.
Full tuning up to 500M parameters, else an adapter in both.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rationalize.models.forward import Row, plain_model
from rationalize.models.logits import output_rows
from rationalize.models.policy import Policy, load_policy
from rationalize.runs import Run, Stage
from rationalize.training.loop import BETAS, EPSILON, FitConfig, fit
from rationalize.training.objectives import nll

RATE, MAX_NORM = 1e-5, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=192)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    policy = load_policy(args.model, tuning="auto", device="cpu")
    drawn = np.random.default_rng(0).integers(policy.n_vocab, size=(args.rows, args.length))
    rows = [Row((int(ids[0]),), tuple(map(int, ids[1:]))) for ids in drawn]
    plain = Plain(policy, torch.from_numpy(drawn))
    products = matrix_products(policy, args.rows * args.length)
    times: dict[str, list[float]] = {"ours": [], "plain": [], "products": []}
    began = 0.0

    def others(step: int) -> None:
        nonlocal began
        for name, work in (("plain", plain.step), ("products", products)):
            started = clock()
            work()
            times[name].append(clock() - started)
        began = clock()

    def ours(step: int) -> None:
        times["ours"].append(clock() - began)

    config = FitConfig(
        learning_rate=RATE, batch_size=args.rows, schedule="constant", warmup=0.0,
        max_grad_norm=MAX_NORM,
    )  # fmt: skip
    never = {"checkpoint_every": float("inf")}
    with tempfile.TemporaryDirectory() as folder, Run.open(folder, never) as run:
        fit(
            policy, nll, lambda _: rows, config, Stage(run, "learning"), steps=args.steps + 1,
            before_step=others, after_step=ours,
        )  # fmt: skip
        loss = run.metrics("learning")[0]["loss"]
    if abs(loss - plain.losses[0]) > 0.02 * loss:
        raise SystemExit(f"the losses differ: {loss} and {plain.losses[0]}")
    # the first step of each allocates
    timed = {name: values[1:] for name, values in times.items()}
    shares = [p / o for p, o in zip(timed["products"], timed["ours"], strict=True)]
    ratios = [p / o for p, o in zip(timed["plain"], timed["ours"], strict=True)]
    seconds = {name: statistics.median(values) for name, values in timed.items()}
    result = {
        "model": args.model, "tuning": policy.tuning, "rows": args.rows, "length": args.length,
        "tokens_per_second": args.rows * args.length / seconds["ours"], "seconds": seconds,
        "share_of_products": statistics.median(shares), "shares": shares,
        "over_plain": statistics.median(ratios), "ratios": ratios, "n": len(ratios),
        "threads": torch.get_num_threads(), "clock": args.clock,
    }  # fmt: skip
    print(json.dumps(result, indent=1))


class Plain:
    """Steps as a short script would write them."""

    def __init__(self, policy: Policy, ids: torch.Tensor) -> None:
        self.model, self.ids, self.half = copy.deepcopy(policy.model), ids, policy.half
        self.losses: list[float] = []
        self.learned = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.learned, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True
        )

    def step(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())


def matrix_products(policy: Policy, tokens: int) -> Callable[[], Any]:
    """The products of all linear layers and of the lm-head over so many tokens, with those of their
    backward passes: of inputs always, of weights where these learn.
    """
    base, dtype = plain_model(policy), torch.bfloat16 if policy.half else torch.float32
    full = policy.tuning == "full"
    layers = [m.weight for m in base.modules() if isinstance(m, torch.nn.Linear)]
    shapes = [w.shape for w in layers if w is not base.get_output_embeddings().weight]
    shapes.append(output_rows(policy).shape)
    matrices = {shape: torch.randn(shape, dtype=dtype) for shape in dict.fromkeys(shapes)}
    inputs = {n: torch.randn(tokens, n, dtype=dtype) for s in matrices for n in s}

    def work() -> None:
        for out, into in shapes:
            weight, x, gradient = matrices[out, into], inputs[into], inputs[out]
            torch.mm(x, weight.T)
            torch.mm(gradient, weight)
            if full:
                torch.mm(gradient.T, x)

    return work


if __name__ == "__main__":
    main()
