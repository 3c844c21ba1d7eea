"""Learning steps beside TRL's: SFT and DPO on the same rows, seconds and peak memory.

    OMP_NUM_THREADS=2 python benchmarks/trl_steps.py                # needs the extra `trl`
    OMP_NUM_THREADS=2 python benchmarks/trl_steps.py --model experiments/qwen --lora --steps 4

Each side runs in a process of its own, in turn, and its seconds of a step leave the first out,
which allocates. Same tokens, weights, batches, AdamW, clipping and autocast in bfloat16; neither
checkpoints activations; reference log-probabilities of DPO are computed beforehand in both. Rows
are the built-in questions with the teacher's rationales; a rejected one is another question's. The
first losses must agree. The peak is the high-water mark of the process's resident set.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rationalize.models.forward import Row
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers
from rationalize.questions import load_splits
from rationalize.runs import Run, Stage
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.batches import RowMaker
from rationalize.training.loop import BETAS, EPSILON, FitConfig, fit
from rationalize.training.objectives import PairTag, dpo, nll, response_logprobs

SIDES = ("ours-sft", "trl-sft", "ours-dpo", "trl-dpo")
RATE, MAX_NORM, BETA, SIZE = 1e-5, 1.0, 0.1, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--lora", action="store_true", help="rank 16 on weights in bfloat16")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", choices=SIDES, help="measure this alone, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args)))
        return
    if importlib.util.find_spec("trl") is None:
        print("left out: TRL is not installed (the extra `trl`)")
        return
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(args.repeats):
        for side in SIDES:
            runs[side].append(in_a_fresh_process([*sys.argv[1:], "--one", side]))
    result: dict[str, Any] = {"model": args.model, "lora": args.lora, "steps": args.steps}
    for kind in ("sft", "dpo"):
        ours, theirs = runs[f"ours-{kind}"], runs[f"trl-{kind}"]
        losses = ours[0]["loss"], theirs[0]["loss"]
        if abs(losses[0] - losses[1]) > 0.02 * losses[0]:
            raise SystemExit(f"the first losses of {kind} differ: {losses[0]} and {losses[1]}")
        result[kind] = {
            "times_faster": [t["seconds"] / o["seconds"] for o, t in zip(ours, theirs)],
            "share_of_memory": [o["peak_MiB"] / t["peak_MiB"] for o, t in zip(ours, theirs)],
            "ours": ours, "trl": theirs,
        }  # fmt: skip
    print(json.dumps(result, indent=1))


def in_a_fresh_process(arguments: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a step, tokens per second without padding, the first loss, and the peak."""
    side, _, kind = args.one.partition("-")
    import torch

    dtype = torch.bfloat16 if args.lora else torch.float32
    numbers = Numbers("bfloat16", dtype, False, False)
    policy = load_policy(
        args.model, tuning="lora" if args.lora else "full", numbers=numbers, device="cpu"
    )
    batches = made_batches(policy, args.steps + 1, pairs=kind == "dpo")
    steps = _ours if side == "ours" else _theirs
    times, loss = steps(policy, batches, kind)
    seconds = statistics.median(times[1:])
    tokens = [sum(row.length for row in batch) for batch in batches[1:]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": seconds, "tokens_per_second": statistics.mean(tokens) / seconds, "loss": loss,
        "peak_MiB": peak, "n": len(times) - 1, "threads": torch.get_num_threads(),
    }  # fmt: skip


def made_batches(policy: Policy, steps: int, *, pairs: bool) -> list[list[Row]]:
    """Of every step the rows: `SIZE`, or as many in pairs of a right and another rationale."""
    train = load_splits(f"builtin:train={SIZE * steps},dev=1,test=1")["train"]
    taught = teacher_attempts(train, "correct")
    maker = RowMaker(policy)
    if not pairs:
        rows = [maker.text(a.prompt, a.completion) for a in taught[: SIZE * steps]]
        return [rows[i : i + SIZE] for i in range(0, SIZE * steps, SIZE)]
    half = SIZE // 2
    of_step = [taught[i : i + half] for i in range(0, half * steps, half)]
    return [
        [
            maker.text(a.prompt, text)
            for a, other in zip(few, [*few[1:], few[0]], strict=True)
            for text in (a.completion, other.completion)
        ]
        for few in of_step
    ]


def _ours(policy: Policy, batches: list[list[Row]], kind: str) -> tuple[list[float], float]:
    config = FitConfig(
        learning_rate=RATE, batch_size=SIZE, schedule="constant", warmup=0.0,
        max_grad_norm=MAX_NORM,
    )  # fmt: skip
    if kind == "dpo":
        batches = [_tagged(rows, response_logprobs(policy, rows, config)) for rows in batches]
    times: list[float] = []
    began = 0.0

    def before(step: int) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(step: int) -> None:
        times.append(time.perf_counter() - began)

    never = {"checkpoint_every": float("inf")}
    with tempfile.TemporaryDirectory() as folder, Run.open(folder, never) as run:
        fit(
            policy, dpo(beta=BETA) if kind == "dpo" else nll, lambda step: batches[step], config,
            Stage(run, "learning"), steps=len(batches), before_step=before, after_step=after,
        )  # fmt: skip
        return times, run.metrics("learning")[0]["loss"]


def _tagged(rows: Sequence[Row], logprobs: Sequence[float]) -> list[Row]:
    return [
        replace(row, tag=PairTag(i // 2, i % 2 == 0, logprob))
        for i, (row, logprob) in enumerate(zip(rows, logprobs, strict=True))
    ]


def _theirs(policy: Policy, batches: list[list[Row]], kind: str) -> tuple[list[float], float]:
    import datasets
    import transformers
    import trl

    times: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.perf_counter() - self.began)

    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "use_cpu": True, "bf16": True, "gradient_checkpointing": False,
            "max_steps": len(batches), "learning_rate": RATE, "lr_scheduler_type": "constant",
            "max_grad_norm": MAX_NORM, "adam_beta1": BETAS[0], "adam_beta2": BETAS[1],
            "adam_epsilon": EPSILON, "weight_decay": 0.0, "optim": "adamw_torch_fused",
            "logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True,
            "shuffle_dataset": False, "max_length": None,
        }  # fmt: skip
        if kind == "sft":
            made = [
                {
                    "input_ids": [*row.prompt_ids, *row.response_ids],
                    "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.response_ids),
                }
                for row in rows
            ]
            config = trl.SFTConfig(
                **common, per_device_train_batch_size=SIZE, completion_only_loss=True
            )
            kinds: Any = trl.SFTTrainer
        else:
            decode = policy.tokenizer.decode
            made = [
                {
                    "prompt": decode(right.prompt_ids), "chosen": decode(right.response_ids),
                    "rejected": decode(wrong.response_ids),
                }
                for right, wrong in zip(rows[::2], rows[1::2], strict=True)
            ]  # fmt: skip
            common.pop("shuffle_dataset")
            config = trl.DPOConfig(
                **common, per_device_train_batch_size=SIZE // 2, beta=BETA,
                precompute_ref_log_probs=True,
            )  # fmt: skip
            kinds = trl.DPOTrainer

        class InOrder(kinds):
            """The trainer, which reads its rows as they stand."""

            def _get_train_sampler(self, *args: Any) -> Any:
                import torch

                return torch.utils.data.SequentialSampler(self.train_dataset)

        trainer = InOrder(
            policy.model, args=config, processing_class=policy.tokenizer, callbacks=[Clock()],
            train_dataset=datasets.Dataset.from_list(made),
        )  # fmt: skip
        trainer.train()
        return times, trainer.state.log_history[0]["loss"]


if __name__ == "__main__":
    main()
