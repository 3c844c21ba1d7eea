"""Tokens per second of our sampler: against transformers' `generate`, against the sampler that it
replaced, and against the time that the products of its matrices alone take.

Same weights in bfloat16, same prompts in the same batches, n = 8, top-p 0.9, replies of at most 48
tokens. Runs alternate in one process; a ratio is the median over the pairs.

The ceiling is a sampler that does nothing but multiply: the model's own matrices by as many rows as
each step of the measured run had, and by the prompts' tokens, in plain bfloat16. Replies written in
that time are the ceiling; a share of it may pass 100 %, since ours are stored as kernels like them.

    python -m benchmarks.sampler
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.earlier_sampler import earlier_replies
from rationalize.models.forward import output_rows, padded, text_decoder
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers, has_fast_bfloat16
from rationalize.questions import load_questions
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.templates import prompt_text

QUAREL = Path(__file__).parents[2] / "shared" / "data" / "quarel"


def compare(
    prompts: int = 16, repeats: int = 3, model: str = "default", sides: Sequence[str] = ()
) -> dict[str, object]:
    """Per side the median tokens per second, and the median ratio of ours to it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = has_fast_bfloat16(device)
    numbers = Numbers(dtype=torch.bfloat16 if half else torch.float32)
    policy = load_policy(model, numbers=numbers, device=device)
    config = SamplingConfig(top_p=0.9, max_new_tokens=48, n=8)
    texts = quarel_prompts(prompts)
    sampler = Sampler(policy)
    write: dict[str, Callable[[Sequence[str]], list[list[int]]]] = {
        "ours": lambda some: by_sampler(sampler, some, config),
        "int8": lambda some: by_sampler(sampler, some, replace(config, weights="int8")),
        "earlier": lambda some: earlier_replies(policy, some, config),
        "generate": lambda some: by_generate(policy, some, config),
    }
    write = {side: write[side] for side in write if side in sides or side == "ours" or not sides}
    for side in write.values():
        side(texts[:8])  # kernels are made, and matrices are stored anew
    rates: dict[str, list[float]] = {side: [] for side in write}
    shares: dict[str, list[float]] = {"ours": [], "int8": []}
    for repeat in range(repeats):
        torch.manual_seed(repeat)
        for side, replies_of in write.items():
            started = time.perf_counter()
            replies = replies_of(texts)
            seconds = time.perf_counter() - started
            rates[side].append(sum(map(len, replies)) / seconds)
            if side in shares:
                shares[side].append(products_alone(policy, texts, replies, config.n) / seconds)
        print(json.dumps({side: round(rate[-1]) for side, rate in rates.items()}), flush=True)
    return {
        "tokens_per_second": {side: statistics.median(rate) for side, rate in rates.items()},
        "ours_over": _ratios(rates, "ours"),
        "int8_over": _ratios(rates, "int8"),
        "share_of_ceiling": {side: statistics.median(s) for side, s in shares.items() if s},
        "pairs": {"rates": rates, "shares": shares},
    }


def _ratios(rates: dict[str, list[float]], side: str) -> dict[str, float]:
    return {
        other: statistics.median(a / b for a, b in zip(rates[side], rate, strict=True))
        for other, rate in rates.items()
        if other != side and side in rates
    }


def quarel_prompts(count: int) -> list[str]:
    """QuaRel's questions where the data is at hand, else built-in ones; by length, as both batch
    them.
    """
    source = str(QUAREL) if QUAREL.exists() else f"builtin:train={count}"
    questions = load_questions(source, "train", limit=count)
    return sorted((prompt_text("rationale_answer", q) for q in questions), key=len, reverse=True)


def by_sampler(sampler: Sampler, prompts: Sequence[str], config: SamplingConfig) -> list[list[int]]:
    """Replies as token ids."""
    completions = sampler.sample(prompts, config, seeds=range(len(prompts)))
    return [list(c.ids) for c_G in completions for c in c_G]


@torch.inference_mode()
def by_generate(
    policy: Policy, prompts: Sequence[str], config: SamplingConfig, batch: int = 8
) -> list[list[int]]:
    """Replies up to and with the first EOS of each."""
    written = []
    for start in range(0, len(prompts), batch):
        ids = [policy.encode_prompt(p)[::-1] for p in prompts[start : start + batch]]
        tokens, mask = (x.flip(-1) for x in padded(ids, policy))
        out = policy.model.generate(
            input_ids=tokens, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
            top_p=config.top_p, max_new_tokens=config.max_new_tokens, num_return_sequences=config.n,
            pad_token_id=policy.pad_id,
        )  # fmt: skip
        for row in out[:, tokens.shape[1] :].tolist():
            written.append(row[: row.index(policy.eos_id) + 1] if policy.eos_id in row else row)
    return written


@torch.inference_mode()
def products_alone(
    policy: Policy, prompts: Sequence[str], replies: Sequence[Sequence[int]], n: int
) -> float:
    """Seconds of the products of one run: layers over all prompts' tokens and, with the head, over
    the rows that still write at each step, in batches of at most 256 rows.
    """
    per_batch = 256 // n
    total = 0.0
    for start in range(0, len(prompts), per_batch):
        read = sum(len(policy.encode_prompt(p)) for p in prompts[start : start + per_batch])
        total += _seconds(policy, read, layers=True)
        lengths = [len(r) for r in replies[start * n : (start + per_batch) * n]]
        for step in range(max(lengths)):
            rows = sum(length > step for length in lengths)
            rows = -(-rows // 8) * 8
            total += _seconds(policy, rows, layers=step > 0, head=True)
    return total


def _seconds(policy: Policy, rows: int, *, layers: bool = False, head: bool = False) -> float:
    """The least of five times, of all layers' products with so many rows, or of the head's."""
    parts = [_measured(_layers(policy), rows)] if layers else []
    parts += [_measured([output_rows(policy)], rows)] if head else []
    return sum(parts)


def _layers(policy: Policy) -> list[Tensor]:
    layers = text_decoder(policy).layers
    return [m.weight for m in layers.modules() if isinstance(m, torch.nn.Linear)]


_known: dict[tuple[int, int], float] = {}


def _measured(matrices: list[Tensor], rows: int) -> float:
    key = len(matrices), rows
    if key not in _known:
        inputs = {w.shape[1]: w.new_ones(rows, w.shape[1]) for w in matrices}
        times = []
        for _ in range(5):
            started = time.perf_counter()
            for w in matrices:
                torch.nn.functional.linear(inputs[w.shape[1]], w)
            times.append(time.perf_counter() - started)
        _known[key] = min(times)
    return _known[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="default")
    parser.add_argument("--sides", nargs="*", default=(), help="of int8, earlier, generate; all")
    print(json.dumps(compare(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
