"""What a base model costs here: seconds to load it, to write 8 x 8 replies and for 10 steps of LoRA
on 8 rows, and the peak of the resident set after each. Seconds are the processor's, of all threads:
with one thread, those of a machine that does nothing else. A model at a time:

    python benchmarks/base_models.py
    python benchmarks/base_models.py --model models/qwen-coder.gguf --dtype bfloat16 --threads 1
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from typing import Any

import torch

from rationalize.models.policy import load_policy
from rationalize.models.precision import Numbers
from rationalize.questions import load_splits
from rationalize.runs import Run, Stage
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.templates import prompt_text
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import nll

SAMPLING = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=48, n=8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tuning", choices=("full", "lora"), default="lora")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps({**vars(args), **measure(args)}, indent=1))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds, tokens per second, and GB held at most since the start."""
    splits = load_splits("builtin:train=80,dev=8,test=8")
    # load; a GGUF file was converted by an earlier call, or is now
    started = time.process_time()
    policy = load_policy(
        args.model, tuning=args.tuning,
        numbers=Numbers(
            dtype=getattr(torch, args.dtype), gradient_checkpointing=args.gradient_checkpointing
        ),
    )  # fmt: skip
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for n, p in policy.model.named_parameters() if "lora" not in n),
        "load_s": time.process_time() - started, "loaded_gb": high_water(),
    }  # fmt: skip
    # write
    prompts = [prompt_text("rationale_answer", q) for q in splits["train"][:8]]
    started = time.process_time()
    replies = Sampler(policy).sample(prompts, SAMPLING, seeds=range(8))
    seconds = time.process_time() - started
    written = sum(c.n_tokens for of_prompt in replies for c in of_prompt)
    found |= {"write_s": seconds, "write_tokens_s": written / seconds, "written_gb": high_water()}
    # learn
    attempts, maker = teacher_attempts(splits["train"], "correct"), RowMaker(policy)
    rows = [maker.attempt(attempts[i % len(attempts)]) for i in range(8 * args.steps)]
    never = {"checkpoint_every": float("inf")}
    with tempfile.TemporaryDirectory() as folder, Run.open(folder, never) as run:
        started = time.process_time()
        fit(
            policy, nll, lambda step: rows[8 * step : 8 * step + 8], FitConfig(),
            Stage(run, "base"), steps=args.steps,
        )  # fmt: skip
    seconds = time.process_time() - started
    learned = sum(r.length for r in rows)
    return found | {
        "learn_s": seconds, "learn_tokens_s": learned / seconds, "peak_gb": high_water(),
    }  # fmt: skip


def high_water() -> float:
    """GB that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    main()
