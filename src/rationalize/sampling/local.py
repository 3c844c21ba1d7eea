"""Sample from a policy in this process.

Prompts are written in fixed shards (`runs/shards.py`). A prompt is read once for all its samples,
and what all prompts of a shard begin with is read once for all of them. Prompts of similar length
share a batch, and finished rows leave it. On processors that
compute in bfloat16, the weights are read from a bfloat16 copy (`models/shadows.py`). Models of the
family of Llama and Qwen are decoded by steps of our own (`models/decode.py`).
Sample j of a prompt depends on `(seed, j)` alone, not on its batch (up to rounding of the logits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rationalize.answers import end_after_answer
from rationalize.errors import UserError
from rationalize.models.context import over_context
from rationalize.models.decode import Memory, OwnStream, read_opening
from rationalize.models.decode_weights import DecodeWeights, check_int8
from rationalize.models.forward import local_window
from rationalize.models.logits import head
from rationalize.models.policy import Policy
from rationalize.models.precision import has_fast_bfloat16
from rationalize.models.shadows import decode_weights, forget_shadows, half_copy
from rationalize.models.streams import MIN_SHARED, Query, Stream, common_length, open_stream
from rationalize.models.tuning import device_memory
from rationalize.progress import Progress
from rationalize.records import Completion
from rationalize.runs.shards import SHARD, Shard, by_shards
from rationalize.sampling.batches import MAX_ROWS, Bounds, batches, samples_at_once
from rationalize.sampling.beams import beam_search
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.draw import draw, uniforms
from rationalize.text import clip

__all__ = ["Sampler", "SamplingConfig"]

_TAIL = 8  # last tokens that are searched for `stop` at every step
_MIN_ACTIVE = 0.9  # finished rows leave below this share of active ones: leaving copies the cache
_EIGHT = 8
"""Rows that stay are a multiple of it where that many are left: for every new number of rows, the
kernels of a step are made anew, and fewer rows take no less time.
"""
_BATCH_TOKENS = 16_384
"""Tokens that a batch keeps where the memory is not known, or what a token takes of it."""
_MEMORY_SHARE = 1 / 16
"""Of the device's memory, for the keys and values of a batch."""

PromptRow = tuple[tuple[Query, ...], int]
"""The views of a prompt, and its seed."""
WriteOrder = tuple[SamplingConfig, int, str | None]
"""What is asked of all shards of a call: sampling, replies per prompt, and where they stop."""
Report = Callable[[int, int], None]
"""Told how many prompts of a shard are done, and how many tokens are written."""


class _Writer:
    """Streams and logits of one call: by our own steps, or by transformers' forward pass."""

    def __init__(self, policy: Policy, weights: DecodeWeights | None = None) -> None:
        self.policy, self._weights = policy, weights
        self._opening: Memory | None = None

    def read_opening(self, queries: Sequence[Query]) -> None:
        """Read what all queries begin with, once for all batches."""
        if not self._weights or len(queries) < 2:
            return
        shared = common_length([(*q.prompt_ids, *q.control_ids) for q in queries])
        if shared >= MIN_SHARED:
            ids = (*queries[0].prompt_ids, *queries[0].control_ids)[:shared]
            self._opening = read_opening(self._weights, ids)

    def open(self, queries: Sequence[Query], new_tokens: int) -> Stream:
        if self._weights:
            return OwnStream(self._weights, queries, self._opening)
        return open_stream(self.policy, queries, new_tokens)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (R, n_vocab) of states (R, d)."""
        return self._weights.head(hidden) if self._weights else head(self.policy, hidden)

    def tokens_kept(self, prompt: int, n: int, new: int) -> int:
        """Tokens whose keys and values are kept for a prompt of so many tokens and its samples."""
        return prompt + n * new if self._weights else n * (prompt + new)

    def batch_tokens(self) -> int:
        """Tokens that a batch may keep. By memory that the device has, used or not: the same in
        each start.
        """
        memory = device_memory(self.policy.device)
        if not self._weights or memory is None:
            return _BATCH_TOKENS
        return max(_BATCH_TOKENS, int(_MEMORY_SHARE * memory / self._weights.bytes_per_token))


class Sampler:
    """Writes completions with the policy's weights as they are at each call."""

    def __init__(
        self,
        policy: Policy,
        *,
        guidance: float = 0.0,
        batch_tokens: int | None = None,
        shadow: bool = True,
        elsewhere: Callable[[WriteOrder, Sequence[Shard]], Any] | None = None,
    ) -> None:
        """`guidance` w decodes from `best + w (best - worst)`, the log-probabilities under the
        control tokens asked for and under the worst ones. `batch_tokens` bounds the cache, in
        tokens that a batch keeps; None: by the device's memory. `shadow=False` keeps the weights'
        precision. `elsewhere` has shards written by `write_shard` of samplers like this one in
        other processes (`shards.Elsewhere`), with their order before the shards.
        """
        self.policy = policy
        self.guidance = guidance
        self.batch_tokens = batch_tokens
        self.shadow = shadow
        self.elsewhere = elsewhere

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.policy.name

    @property
    def dtype(self) -> torch.dtype:
        """What replies are computed in."""
        half = self.shadow and has_fast_bfloat16(self.policy.device)
        return torch.bfloat16 if half else self.policy.dtype

    def refresh(self) -> None:
        """Take over weights that were written through `.data`; other changes are noticed."""
        forget_shadows()

    def _writer(self, config: SamplingConfig, length: int) -> _Writer:
        """What writes rows of at most so many tokens with the weights as they are now."""
        policy = self.policy
        if length > local_window(policy):  # our steps see all tokens
            policy = replace(policy, own_steps=False)
        if config.weights == "int8":
            check_int8(policy)
            return _Writer(policy, decode_weights(policy, "int8"))
        # decoding spends its time reading weights, and bfloat16 halves their bytes
        half = self.shadow and has_fast_bfloat16(policy.device)
        if policy.own_steps and config.beams == 1:
            return _Writer(policy, decode_weights(policy, "bfloat16" if half else "as_is"))
        return _Writer(replace(policy, model=half_copy(policy)) if half else policy)

    def sample(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        seeds: Sequence[int],
        controls: Sequence[Mapping[str, int] | None] | None = None,
        stop: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """`config.n` completions per prompt, in order. `controls` gives each prompt a bin per
        reward to write under (0 is best). A reply ends before the first `stop`; in a chat, whose
        rationales may contain it, before the first one after the answer.
        """
        ids_PG = self.sample_ids(
            prompts, config, seeds=seeds, controls=controls, stop=stop, progress=progress
        )
        return [[self._completion(ids, stop) for ids in ids_G] for ids_G in ids_PG]

    @torch.inference_mode()
    def sample_ids(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        seeds: Sequence[int],
        controls: Sequence[Mapping[str, int] | None] | None = None,
        stop: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[list[int]]]:
        """`sample` as token ids, EOS (or `stop`) included where it was written."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(seeds)} seeds")
        searched = config.beams > 1
        if searched and self.guidance:
            raise ValueError("beam search is not guided; give guidance=0, or beams=1")
        queries = self._queries_of(prompts, controls, config)
        n = config.n if searched or not config.greedy else 1  # greedy: one, repeated at the end
        ids_PG: list[list[list[int]]] = [[] for _ in prompts]
        done = tokens = 0  # prompts and tokens of finished shards
        told = (0, 0)

        def report(prompts_done: int, written: int) -> None:
            nonlocal told
            now = (done + prompts_done, tokens + written)
            if progress and now != told:
                progress(now[0] * config.n, len(prompts) * config.n, now[1])
            told = now

        order = (config, n, stop)
        elsewhere = partial(self.elsewhere, order) if self.elsewhere else None

        def write(rows: Sequence[PromptRow]) -> list[list[list[int]]]:
            return self.write_shard(order, rows, report)

        settings = [config.as_dict(), self.guidance, stop]
        rows = list(zip(queries, seeds, strict=True))
        # an accelerator takes no longer for a full batch than for a part of one
        size = SHARD if self.policy.device.type == "cpu" else max(SHARD, MAX_ROWS // n)
        for at, written in by_shards(
            rows, write, settings=settings, size=size, elsewhere=elsewhere
        ):
            ids_PG[at] = written
            done += len(written)
            tokens += sum(len(ids) for ids_G in written for ids in ids_G)
            report(0, 0)
        return [ids_G * (config.n // n) for ids_G in ids_PG]

    @torch.inference_mode()
    def write_shard(
        self, order: WriteOrder, rows: Sequence[PromptRow], report: Report = lambda *_: None
    ) -> list[list[list[int]]]:
        """The token ids of n replies to each prompt; nothing of other shards has a say in them."""
        config, n, stop = order
        queries, seeds = [q for q, _ in rows], [seed for _, seed in rows]
        longest = max(len(q.prompt_ids) + len(q.control_ids) for q, *_ in queries)
        writer = self._writer(config, longest + config.max_new_tokens)
        writer.read_opening([q for views in queries for q in views])
        # batches are written longest first; `batch` holds the indices of their prompts
        ids_PG: list[list[list[int]]] = [[] for _ in rows]
        done = tokens = 0  # prompts and tokens of finished batches
        decoding = self.policy.decoding
        if config.beams > 1 and not decoding.batch:
            raise UserError(
                f"{self.policy.name}: beams is {config.beams}, and this model's state cannot be "
                "reordered as a beam search needs it; expected beams=1, or another model"
            )
        # without an exact cache, padding was never tried
        padding = decoding.padding and (config.beams == 1 or decoding.cache)
        bounds = Bounds(
            self.batch_tokens or writer.batch_tokens(), writer.tokens_kept, config.max_new_tokens,
            padding,
        )  # fmt: skip
        at_once = samples_at_once(longest, len(queries[0]), n, bounds)
        for batch in batches(queries, max(at_once, config.beams), bounds):
            if config.beams > 1:
                beams_PG = beam_search(writer.policy, [queries[i][0] for i in batch], config)
                for i, beams_G in zip(batch, beams_PG, strict=True):
                    ids_PG[i] = beams_G
                tokens += sum(len(ids) for beams_G in beams_PG for ids in beams_G)
            for first in range(0, n, at_once) if config.beams == 1 else ():
                samples = range(first, min(first + at_once, n))
                # a row per sample of each prompt; its random numbers do not depend on the batch
                uniform_RT = uniforms(
                    [(seeds[i], j) for i in batch for j in samples], config.max_new_tokens
                )
                written: list[list[int]] = []
                for written, finished in self._write(
                    writer, [queries[i] for i in batch], config, len(samples), uniform_RT, stop
                ):
                    report(done + finished // n, tokens + sum(map(len, written)))
                for at, i in enumerate(batch):
                    ids_PG[i] += written[at * len(samples) : (at + 1) * len(samples)]
                tokens += sum(map(len, written))
            done += len(batch)
            report(done, tokens)
        return ids_PG

    def fits(
        self, prompt: str, config: SamplingConfig, control: Mapping[str, int] | None = None
    ) -> bool:
        """Whether a prompt with its control tokens and reply is within the model's context."""
        return not self._over_context(self._queries(prompt, control)[0], config)

    def _over_context(self, query: Query, config: SamplingConfig) -> str:
        new = len(query.control_ids) + config.max_new_tokens
        return over_context(self.policy, len(query.prompt_ids), new)

    def _queries_of(
        self, prompts: Sequence[str], controls: Sequence[Mapping[str, int] | None] | None,
        config: SamplingConfig,
    ) -> list[tuple[Query, ...]]:  # fmt: skip
        """The views of every prompt. Raises `UserError` where the longest one does not fit, before
        any reply is written.
        """
        queries = [
            self._queries(p, controls[i] if controls else None) for i, p in enumerate(prompts)
        ]
        if not queries:
            return []
        i = max(range(len(queries)), key=lambda i: len(queries[i][0].prompt_ids))
        if wrong := self._over_context(queries[i][0], config):
            raise UserError(
                f"{self.policy.name}: {wrong} (prompt {i + 1} of {len(prompts)} ends in "
                f"{clip(prompts[i][-50:])}); shorten the questions, show fewer demonstrations "
                "(shots), lower max_new_tokens, or take a model with a longer context"
            )
        return queries

    def _queries(self, prompt: str, control: Mapping[str, int] | None) -> tuple[Query, ...]:
        """One view of the prompt; with guidance a second one, under the worst tokens."""
        ids = tuple(self.policy.encode_prompt(prompt))
        if not control:
            return (Query(ids, ()),)
        if self.policy.controls is None:
            raise ValueError(
                f"{self.policy.name} has no control tokens, but is asked for {dict(control)}"
            )
        prefix = self.policy.controls.prefix
        views = [control, self.policy.controls.worst(control)] if self.guidance else [control]
        return tuple(Query(ids, tuple(prefix(view))) for view in views)

    def _write(
        self, writer: _Writer, queries: Sequence[tuple[Query, ...]], config: SamplingConfig,
        n: int, uniform_RT: Tensor, stop: str | None,
    ) -> Iterator[tuple[list[list[int]], int]]:  # fmt: skip
        """Yields after every step the token ids per query and sample (EOS included where it was
        written), and how many of them are finished.
        """
        views = len(queries[0])  # the stream's rows are all of the first view, then of the second
        starts = [q[view] for view in range(views) for q in queries]
        stream = writer.open(starts, config.max_new_tokens)
        # prompts were read once each; from here on a row is a sample
        if n > 1:
            stream.repeat(n)
        written: list[list[int]] = [[] for _ in range(len(queries) * n)]
        sample_R = torch.arange(len(written))  # index into `written` of each row of a view
        active_R = torch.ones(len(written), dtype=torch.bool)
        ends = torch.tensor(self.policy.ends)
        for step in range(config.max_new_tokens):
            # draw a token per row; rows that are finished but still there are ignored
            logits_RV = self._combine(writer.head(stream.hidden), views)
            tokens_R = draw(logits_RV, config, uniform_RT[sample_R, step]).cpu()
            for sample, token, active in zip(
                sample_R.tolist(), tokens_R.tolist(), active_R.tolist(), strict=True
            ):
                if active:
                    written[sample].append(token)

            # finished: EOS, `stop`, or the length limit
            active_R &= ~torch.isin(tokens_R, ends)
            if stop:
                ended = [self._just_ended(written[i], stop) for i in sample_R.tolist()]
                active_R &= ~torch.tensor(ended)
            n_active = int(active_R.sum()) if step + 1 < config.max_new_tokens else 0
            yield written, len(written) - n_active
            if not n_active:
                return

            # drop finished rows once there are enough of them, then feed the tokens to all views
            n_kept = -(-n_active // _EIGHT) * _EIGHT
            if n_kept <= _MIN_ACTIVE * len(active_R):
                spare = (~active_R).nonzero()[: n_kept - n_active, 0]
                kept = torch.cat([active_R.nonzero()[:, 0], spare]).sort().values
                stream.select(torch.cat([kept + view * len(active_R) for view in range(views)]))
                sample_R, tokens_R, active_R = sample_R[kept], tokens_R[kept], active_R[kept]
            stream.step(tokens_R.repeat(views))

    def _combine(self, logits: Tensor, views: int) -> Tensor:
        """(views * R, V) -> (R, V): the guided log-probabilities where there are two views."""
        if views == 1:
            return logits
        best, worst = torch.log_softmax(logits.float(), -1).chunk(2)
        return best + self.guidance * (best - worst)

    def _just_ended(self, ids: Sequence[int], stop: str) -> bool:
        """Whether the reply ended within the last few tokens."""
        if stop not in self.policy.tokenizer.decode(ids[-_TAIL:]):
            return False
        return self._end(self.policy.decode(ids, strip=False), stop) >= 0

    def _end(self, text: str, stop: str) -> int:
        """Where a reply ends before `stop`, or -1."""
        return end_after_answer(text, stop) if self.policy.chat else text.find(stop)

    def _completion(self, ids: Sequence[int], stop: str | None) -> Completion:
        text, ended = self.policy.decode(ids, strip=False), ids[-1] in self.policy.ends
        if stop and (end := self._end(text, stop)) >= 0:
            text, ended = text[:end], True
        return Completion(text.strip(), "stop" if ended else "length", len(ids), tuple(ids))
