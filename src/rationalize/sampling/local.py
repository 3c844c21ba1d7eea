"""Sample from a policy in this process.

A prompt is read once, whatever the number of its samples; prompts of like length share a batch;
rows that are done leave it; and on processors that compute in bfloat16 the weights are read as a
bfloat16 shadow. Sample j of a prompt depends on `(seed, j)` alone, not on the batch that it happens
to be in (up to the rounding of the logits).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rationalize.answers import end_after_answer
from rationalize.models.forward import head
from rationalize.models.policy import Policy
from rationalize.models.precision import frozen_copy, has_fast_bfloat16
from rationalize.progress import Progress
from rationalize.records import Completion
from rationalize.sampling.beams import beam_search
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.draw import draw, uniforms
from rationalize.sampling.streams import Query, open_stream

__all__ = ["Sampler", "SamplingConfig"]

_TAIL = 8  # tokens that are read for a text that ends a reply, at every step
_CROWDED = 0.9  # rows leave when fewer are still writing than this share: it copies the cache


class Sampler:
    """Writes completions with a policy's weights as of when it was made, or last refreshed."""

    def __init__(
        self,
        policy: Policy,
        *,
        guidance: float = 0.0,
        batch_tokens: int = 16_384,
        shadow: bool = True,
    ) -> None:
        """`guidance` w decodes from `best + w (best - worst)` in log-probabilities, under the
        tokens asked for and the worst ones; `batch_tokens` bounds the cache: rows of a batch times
        their longest length; `shadow=False` keeps the weights' precision.
        """
        self.policy = policy
        self.guidance = guidance
        self.batch_tokens = batch_tokens
        self.shadow = shadow
        self.refresh()

    @property
    def name(self) -> str:
        """The policy's."""
        return self.policy.name

    def refresh(self) -> None:
        """Take over the policy's weights as they are now."""
        self._writer = self.policy
        if (
            self.shadow
            and has_fast_bfloat16(self.policy.device)
            and self.policy.dtype != torch.bfloat16
        ):
            self._writer = replace(
                self.policy, model=frozen_copy(self.policy.model, torch.bfloat16)
            )

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
        """`config.n` completions per prompt, in order. `controls` names the bins (0 is best) that
        each is written under. A reply ends before the text `stop`: in a chat, whose rationales may
        hold it, before the first one after the answer; else before the first one at all.
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
        """The same as token ids, EOS (or `stop`) included where it was written."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(seeds)} seeds")
        searched = config.beams > 1
        if searched and self.guidance:
            raise ValueError("beam search is not guided; give guidance=0, or beams=1")
        n = config.n if searched or not config.greedy else 1
        queries = [
            self._queries(p, controls[i] if controls else None) for i, p in enumerate(prompts)
        ]
        results: list[list[list[int]]] = [[] for _ in prompts]
        done = tokens = 0
        for batch in self._batches(queries, max(n, config.beams), config.max_new_tokens):
            if searched:
                found = beam_search(self._writer, [queries[i][0] for i in batch], config)
                for i, best in zip(batch, found, strict=True):
                    results[i] = best
                done += len(batch)
                tokens += sum(len(ids) for best in found for ids in best)
                if progress:
                    progress(done, len(prompts), tokens)
                continue
            uniform = uniforms(
                [(seeds[i], j) for i in batch for j in range(n)], config.max_new_tokens
            )
            written: list[list[int]] = []
            for written, finished in self._write(
                [queries[i] for i in batch], config, n, uniform, stop
            ):
                if progress:
                    progress(done + finished // n, len(prompts), tokens + sum(map(len, written)))
            for at, i in enumerate(batch):
                results[i] = written[at * n : (at + 1) * n]
            done += len(batch)
            tokens += sum(map(len, written))
        return [ids_G * (config.n // n) for ids_G in results]

    def _queries(self, prompt: str, control: Mapping[str, int] | None) -> tuple[Query, ...]:
        """One view of the prompt; when guided, a second one under the worst tokens."""
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

    def _batches(
        self, queries: Sequence[tuple[Query, ...]], n: int, new: int
    ) -> Iterator[list[int]]:
        """Indices of queries that are written together: alike in number of views and control
        tokens, longest first.
        """

        def shape(i: int) -> tuple[int, int, int]:
            return len(queries[i]), len(queries[i][0].control_ids), len(queries[i][0].prompt_ids)

        batch: list[int] = []
        for i in sorted(range(len(queries)), key=shape, reverse=True):
            views, controls, length = shape(
                batch[0] if batch else i
            )  # the first of a batch is its longest
            full = (len(batch) + 1) * n * views * (length + controls + new) > self.batch_tokens
            if batch and (full or shape(i)[:2] != (views, controls)):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _write(
        self, queries: Sequence[tuple[Query, ...]], config: SamplingConfig, n: int,
        uniform: Tensor, stop: str | None,
    ) -> Iterator[tuple[list[list[int]], int]]:  # fmt: skip
        """After every step: the token ids per query and sample (EOS included where it was written),
        and how many are done.
        """
        views = len(queries[0])  # rows are laid out view by view
        stream = open_stream(self._writer, [q[view] for view in range(views) for q in queries])
        if n > 1:
            stream.repeat(n)
        written: list[list[int]] = [[] for _ in range(len(queries) * n)]
        row_of = torch.arange(len(written))  # of each row in the stream
        going = torch.ones(len(written), dtype=torch.bool)
        for step in range(config.max_new_tokens):
            logits = self._combine(head(self._writer, stream.hidden), views)
            tokens = draw(logits, config, uniform[row_of, step]).cpu()
            for row, token, writes in zip(
                row_of.tolist(), tokens.tolist(), going.tolist(), strict=True
            ):
                if writes:
                    written[row].append(token)
            going &= tokens != self.policy.eos_id
            if stop:
                ended = [self._just_ended(written[row], stop) for row in row_of.tolist()]
                going &= ~torch.tensor(ended)
            left = int(going.sum()) if step + 1 < config.max_new_tokens else 0
            yield written, len(written) - left
            if not left:
                return
            if left < _CROWDED * len(going):
                kept = going.nonzero()[:, 0]
                stream.select(torch.cat([kept + view * len(going) for view in range(views)]))
                row_of, tokens, going = row_of[kept], tokens[kept], going[kept]
            stream.step(tokens.repeat(views))

    def _combine(self, logits: Tensor, views: int) -> Tensor:
        if views == 1:
            return logits
        best, worst = torch.log_softmax(logits.float(), -1).chunk(2)
        return best + self.guidance * (best - worst)

    def _just_ended(self, ids: Sequence[int], stop: str) -> bool:
        """Whether the last few tokens have brought a reply's end."""
        if stop not in self.policy.tokenizer.decode(ids[-_TAIL:]):
            return False
        return self._end(self.policy.decode(ids, strip=False), stop) >= 0

    def _end(self, text: str, stop: str) -> int:
        """Where a reply ends before `stop`, or -1."""
        return end_after_answer(text, stop) if self.policy.chat else text.find(stop)

    def _completion(self, ids: Sequence[int], stop: str | None) -> Completion:
        text, ended = self.policy.decode(ids, strip=False), ids[-1] == self.policy.eos_id
        if stop and (end := self._end(text, stop)) >= 0:
            text, ended = text[:end], True
        return Completion(text.strip(), "stop" if ended else "length", len(ids), tuple(ids))
