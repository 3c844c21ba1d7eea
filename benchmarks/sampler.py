"""Tokens per second of our sampler: against transformers' `generate`, against the sampler that it
replaced, and against the time that the products of its matrices alone take.

Same weights in bfloat16, same prompts in the same batches, n = 8, top-p 0.9, replies of at most 48
tokens. Runs alternate in one process; a ratio is the median over the pairs.

The ceiling is a sampler that does nothing but multiply: the model's own matrices by as many rows as
each step of the measured run had, and by the prompts' tokens, in plain bfloat16. Replies written in
that time are the ceiling; a share of it may pass 100 %, since ours are stored as kernels like them.

    python benchmarks/sampler.py
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rationalize.models.decode import OwnStream
from rationalize.models.decode_weights import read_weights
from rationalize.models.forward import padded, text_decoder
from rationalize.models.logits import head, output_rows
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers, frozen_copy, has_fast_bfloat16
from rationalize.models.streams import Query, open_stream
from rationalize.questions import load_questions
from rationalize.sampling.config import HttpConfig
from rationalize.sampling.draw import uniforms
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.server import ServerSampler
from rationalize.templates import prompt_text


def compare(
    prompts: int = 16, repeats: int = 3, model: str = "default", sides: Sequence[str] = (),
    clock: str = "wall", server: str = "", questions: str = "builtin",
) -> dict[str, object]:  # fmt: skip
    """Per side the median tokens per second, and the median ratio of ours to it."""
    now = time.perf_counter if clock == "wall" else time.process_time
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = has_fast_bfloat16(device)
    numbers = Numbers(dtype=torch.bfloat16 if half else torch.float32)
    policy = load_policy(model, numbers=numbers, device=device)
    config = SamplingConfig(top_p=0.9, max_new_tokens=48, n=8)
    texts = prompts_of(questions, prompts)
    sampler = Sampler(policy)
    write: dict[str, Callable[[Sequence[str]], list[list[int]]]] = {
        "ours": lambda some: by_sampler(sampler, some, config),
        "int8": lambda some: by_sampler(sampler, some, replace(config, weights="int8")),
        "earlier": lambda some: earlier_replies(policy, some, config),
        "generate": lambda some: by_generate(policy, some, config),
    }
    if server:  # an OpenAI-style server of the same model, asked for all prompts at once
        # nothing is answered from memory: an empty one, and other seeds at each call
        memory, first_seeds = tempfile.TemporaryDirectory(), itertools.count(step=1000)
        http = HttpConfig(endpoint="completions", concurrency=64)
        remote = ServerSampler(server, "model", http, cache=Path(memory.name))
        write["server"] = lambda some: by_server(remote, policy, some, config, next(first_seeds))
        sides = [*sides, "server"] if sides else ()
    write = {side: write[side] for side in write if side in sides or side == "ours" or not sides}
    for side in write.values():
        side(texts[:8])  # kernels are made, and matrices are stored anew
    rates: dict[str, list[float]] = {side: [] for side in write}
    shares: dict[str, list[float]] = {"ours": [], "int8": []}
    for repeat in range(repeats):
        torch.manual_seed(repeat)
        for side, replies_of in write.items():
            started = now()
            replies = replies_of(texts)
            seconds = now() - started
            rates[side].append(sum(map(len, replies)) / seconds)
            if side in shares:
                shares[side].append(products_alone(policy, texts, replies, config.n, now) / seconds)
        print(json.dumps({side: round(rate[-1]) for side, rate in rates.items()}), flush=True)
    if "int8" in write:
        print(json.dumps(distances(policy, texts[:8], config)), flush=True)
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


def prompts_of(source: str, count: int) -> list[str]:
    """Prompts of the first training questions, by length, as both batch them."""
    questions = load_questions(source, "train", limit=count)
    return sorted((prompt_text("rationale_answer", q) for q in questions), key=len, reverse=True)


def by_sampler(sampler: Sampler, prompts: Sequence[str], config: SamplingConfig) -> list[list[int]]:
    """Replies as token ids."""
    completions = sampler.sample(prompts, config, seeds=range(len(prompts)))
    return [list(c.ids) for c_G in completions for c in c_G]


def by_server(
    sampler: ServerSampler, policy: Policy, prompts: Sequence[str], config: SamplingConfig,
    seed: int,
) -> list[list[int]]:  # fmt: skip
    """A server's replies in the policy's token ids: servers count those of several replies in
    different ways.
    """
    completions = sampler.sample(prompts, config, seeds=range(seed, seed + len(prompts)))
    return [policy.encode_response(c.text) for c_G in completions for c in c_G]


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
def earlier_replies(
    policy: Policy, prompts: Sequence[str], config: SamplingConfig, batch: int = 8
) -> list[list[int]]:
    """Replies as token ids by the sampler before `models/decode.py`: transformers' forward pass
    with its growing cache, and several passes over the vocabulary per draw.
    """
    replies: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        uniform_RT = uniforms(
            [(start + i, j) for i in range(len(some)) for j in range(config.n)],
            config.max_new_tokens,
        )
        queries = [Query(tuple(policy.encode_prompt(p)), ()) for p in some]
        replies += _write(policy, queries, config, uniform_RT)
    return replies


def _write(
    policy: Policy, queries: Sequence[Query], config: SamplingConfig, uniform_RT: Tensor
) -> list[list[int]]:
    stream = open_stream(policy, queries, config.max_new_tokens)
    stream.repeat(config.n)
    written: list[list[int]] = [[] for _ in range(len(queries) * config.n)]
    sample_R = torch.arange(len(written))
    active_R = torch.ones(len(written), dtype=torch.bool)
    for step in range(config.max_new_tokens):
        tokens_R = _draw(head(policy, stream.hidden), config, uniform_RT[sample_R, step])
        for sample, token, active in zip(
            sample_R.tolist(), tokens_R.tolist(), active_R.tolist(), strict=True
        ):
            if active:
                written[sample].append(token)
        active_R &= ~torch.isin(tokens_R, torch.tensor(policy.ends))
        if not active_R.any() or step + 1 == config.max_new_tokens:
            break
        if int(active_R.sum()) < 0.9 * len(active_R):
            kept = active_R.nonzero()[:, 0]
            stream.select(kept)
            sample_R, tokens_R, active_R = sample_R[kept], tokens_R[kept], active_R[kept]
        stream.step(tokens_R)
    return written


def _draw(logits_RV: Tensor, config: SamplingConfig, uniform_R: Tensor) -> Tensor:
    logits = logits_RV.float() / config.temperature
    total = logits.logsumexp(-1, keepdim=True)
    tokens = torch.empty(len(logits), dtype=torch.long)
    left = torch.arange(len(logits))
    for count in (64, 1024, logits.shape[-1]):
        values, ids = logits[left].topk(min(count, logits.shape[-1]), dim=-1)
        p = (values - total[left]).exp()
        complete = (p.sum(-1) >= config.top_p) | (count == logits.shape[-1])
        rows = left[complete]
        p, ids = p[complete], ids[complete]
        kept = torch.where(p.cumsum(-1) - p < config.top_p, p, 0.0).double().cumsum(-1)
        at = torch.searchsorted(kept, uniform_R[rows][:, None] * kept[:, -1:], right=True)
        tokens[rows] = ids.gather(1, at.clamp(max=ids.shape[-1] - 1))[:, 0]
        left = left[~complete]
        if not len(left):
            break
    return tokens


@torch.inference_mode()
def distances(policy: Policy, prompts: Sequence[str], config: SamplingConfig) -> dict[str, object]:
    """How far bfloat16 and int8 are from computing in float32, on greedy replies: the mean
    divergence per token in nats, and the share of tokens whose likeliest is the same.
    """
    exact = replace(policy, model=frozen_copy(policy.model, torch.float32))
    queries = [Query(tuple(policy.encode_prompt(p)), ()) for p in prompts]
    replies = by_sampler(Sampler(policy), prompts, replace(config, temperature=0.0, n=1))
    weights = {
        "float32": read_weights(exact, "as_is"), "bfloat16": read_weights(policy, "bfloat16"),
        "int8": read_weights(policy, "int8"),
    }  # fmt: skip
    streams = {kind: OwnStream(w, queries) for kind, w in weights.items()}
    kl: dict[str, list[float]] = {"bfloat16": [], "int8": []}
    same: dict[str, list[float]] = {"bfloat16": [], "int8": []}
    for step in range(max(map(len, replies))):
        active = torch.tensor([len(reply) > step for reply in replies])
        logprobs = {
            kind: weights[kind].head(s.hidden).float().log_softmax(-1)[active]
            for kind, s in streams.items()
        }
        true = logprobs["float32"]
        for kind in kl:
            kl[kind] += (true.exp() * (true - logprobs[kind])).sum(-1).tolist()
            same[kind] += (true.argmax(-1) == logprobs[kind].argmax(-1)).tolist()
        tokens = torch.tensor([reply[step] if len(reply) > step else 0 for reply in replies])
        for stream in streams.values():
            stream.step(tokens)
    return {
        "kl": {kind: statistics.mean(values) for kind, values in kl.items()},
        "same": {kind: statistics.mean(values) for kind, values in same.items()},
        "tokens": len(kl["int8"]),
    }


@torch.inference_mode()
def products_alone(
    policy: Policy, prompts: Sequence[str], replies: Sequence[Sequence[int]], n: int,
    now: Callable[[], float],
) -> float:  # fmt: skip
    """Seconds of the products of one run: layers over all prompts' tokens and, with the head, over
    the rows that still write at each step, in batches of at most 256 rows.
    """
    per_batch = 256 // n
    layers = text_decoder(policy).layers
    inner = [m.weight for m in layers.modules() if isinstance(m, torch.nn.Linear)]

    @functools.cache
    def seconds(rows: int, *, head: bool) -> float:
        return _least([output_rows(policy)] if head else inner, rows, now)

    total = 0.0
    for start in range(0, len(prompts), per_batch):
        read = sum(len(policy.encode_prompt(p)) for p in prompts[start : start + per_batch])
        total += seconds(read, head=False)
        lengths = [len(r) for r in replies[start * n : (start + per_batch) * n]]
        for step in range(max(lengths)):
            rows = -(-sum(length > step for length in lengths) // 8) * 8
            # the first token of a reply follows from its prompt alone
            total += seconds(rows, head=True) + (seconds(rows, head=False) if step else 0)
    return total


def _least(matrices: Sequence[Tensor], rows: int, now: Callable[[], float]) -> float:
    """Seconds to multiply so many rows by each matrix, the least of five times."""
    inputs = {w.shape[1]: w.new_ones(rows, w.shape[1]) for w in matrices}
    times = []
    for _ in range(5):
        started = now()
        for w in matrices:
            torch.nn.functional.linear(inputs[w.shape[1]], w)
        times.append(now() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", default="builtin", help="whose training questions are asked")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="default")
    parser.add_argument("--sides", nargs="*", default=(), help="of int8, earlier, generate; all")
    parser.add_argument("--server", default="", help="a server of the same model")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    print(json.dumps(compare(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
