"""Tokens per second of our sampler against transformers' `generate`.

Same weights in bfloat16, same prompts in the same batches, n = 8, top-p 0.9, replies of at most 48
tokens. Runs alternate in one process; the ratio is the median over the pairs.

    python -m benchmarks.sampler
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from rationalize.models.forward import padded
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers, has_fast_bfloat16
from rationalize.questions import load_questions
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.templates import prompt_text

QUAREL = Path(__file__).parents[2] / "shared" / "data" / "quarel"


def compare(prompts: int = 16, repeats: int = 3, model: str = "default") -> dict[str, float]:
    """Median tokens per second of both, and the median of their ratios."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = has_fast_bfloat16(device)
    numbers = Numbers(dtype=torch.bfloat16 if half else torch.float32)
    policy = load_policy(model, numbers=numbers, device=device)
    config = SamplingConfig(top_p=0.9, max_new_tokens=48, n=8)
    texts = quarel_prompts(prompts)
    sampler = Sampler(policy)
    _rate(lambda: by_generate(policy, texts[:1], config))
    _rate(lambda: by_sampler(sampler, texts[:1], config))
    pairs = []
    for repeat in range(repeats):
        torch.manual_seed(repeat)
        theirs = _rate(lambda: by_generate(policy, texts, config))
        ours = _rate(lambda: by_sampler(sampler, texts, config))
        pairs.append((ours, theirs))
        print(
            f"ours {ours:.0f}, generate {theirs:.0f} tokens/s, ratio {ours / theirs:.2f}",
            flush=True,
        )
    return {
        "ours": statistics.median(o for o, _ in pairs),
        "generate": statistics.median(t for _, t in pairs),
        "ratio": statistics.median(o / t for o, t in pairs),
    }


def quarel_prompts(count: int) -> list[str]:
    """QuaRel's questions where the data is at hand, else built-in ones; by length, as both batch
    them.
    """
    source = str(QUAREL) if QUAREL.exists() else f"builtin:train={count}"
    questions = load_questions(source, "train", limit=count)
    return sorted((prompt_text("rationale_answer", q) for q in questions), key=len, reverse=True)


def by_sampler(sampler: Sampler, prompts: Sequence[str], config: SamplingConfig) -> int:
    """Tokens written."""
    completions = sampler.sample(prompts, config, seeds=range(len(prompts)))
    return sum(c.n_tokens for c_G in completions for c in c_G)


@torch.inference_mode()
def by_generate(
    policy: Policy, prompts: Sequence[str], config: SamplingConfig, batch: int = 8
) -> int:
    """Tokens written, up to and with the first EOS of each reply."""
    written = 0
    for start in range(0, len(prompts), batch):
        ids = [policy.encode_prompt(p)[::-1] for p in prompts[start : start + batch]]
        tokens, mask = (x.flip(-1) for x in padded(ids, policy))
        out = policy.model.generate(
            input_ids=tokens, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
            top_p=config.top_p, max_new_tokens=config.max_new_tokens, num_return_sequences=config.n,
            pad_token_id=policy.pad_id,
        )  # fmt: skip
        for row in out[:, tokens.shape[1] :].tolist():
            written += row.index(policy.eos_id) + 1 if policy.eos_id in row else len(row)
    return written


def _rate(write) -> float:
    started = time.perf_counter()
    return write() / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="default")
    result = compare(**vars(parser.parse_args()))
    print(
        f"sampler: {result['ours']:.0f} tokens/s, generate: {result['generate']:.0f} tokens/s, "
        f"ratio {result['ratio']:.2f} (aim 2.0)"
    )


if __name__ == "__main__":
    main()
