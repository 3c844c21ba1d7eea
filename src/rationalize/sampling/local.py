"""Sample from a policy in this process.

A prompt is read once, whatever the number of its samples; prompts of like length share a batch; rows that are done leave it; and on
processors that compute in bfloat16 the weights are read as a bfloat16 shadow. Sample j of a prompt depends on `(seed, j)` alone, not on the
batch that it happens to be in (up to the rounding of the logits).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from rationalize.models.forward import head, padded, plain_model
from rationalize.models.policy import Policy
from rationalize.models.precision import has_fast_bfloat16
from rationalize.progress import Progress
from rationalize.records import Completion
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.draw import draw, uniforms

__all__ = ["Sampler", "SamplingConfig"]


class Sampler:
    """Writes completions with a policy's weights as they are now."""

    def __init__(self, policy: Policy, *, guidance: float = 0.0, rows: int = 64, shadow: bool = True) -> None:
        """`guidance` w decodes from `best + w (best - worst)` in log-probabilities, under the best and the worst control prefix;
        `rows` sequences are written at once; `shadow=False` keeps the weights' own precision."""
        self.policy = policy
        self.guidance = guidance
        self.rows = rows
        if shadow and has_fast_bfloat16(policy.device) and next(policy.model.parameters()).dtype != torch.bfloat16:
            self._writer = replace(policy, model=copy.deepcopy(policy.model).to(torch.bfloat16).eval())
        else:
            self._writer = policy

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        seeds: Sequence[int],
        controls: Sequence[Mapping[str, int]] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """`config.n` completions per prompt, in order. `controls` names the bins (0 is best) that each is written under."""
        n = 1 if config.greedy else config.n
        queries = [self._query(p, controls[i] if controls else None) for i, p in enumerate(prompts)]
        order = sorted(range(len(prompts)), key=lambda i: (len(queries[i][0]), i), reverse=True)
        results: list[list[Completion]] = [[] for _ in prompts]
        done = tokens = 0
        at_once = max(1, self.rows // (n * len(queries[0]) if queries else 1))
        for start in range(0, len(order), at_once):
            group = order[start : start + at_once]
            u = uniforms([(seeds[i], j) for i in group for j in range(n)], config.max_new_tokens)
            written = self._write([queries[i] for i in group], config, n, u)
            for at, ids in enumerate(written):
                results[group[at // n]].append(self._completion(ids, config))
                tokens += len(ids)
            done += len(group)
            if progress:
                progress(done, len(prompts), tokens)
        return [r * config.n if config.greedy else r for r in results]

    def _query(self, prompt: str, control: Mapping[str, int] | None) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(prompt ids, control ids), once for the tokens asked for and, when guided, once for the worst."""
        ids = tuple(self.policy.encode_prompt(prompt))
        if not control:
            return [(ids, ())]
        if self.policy.controls is None:
            raise ValueError("this policy has no control tokens")
        prefixes = [control, self.policy.controls.worst(control)] if self.guidance else [control]
        return [(ids, tuple(self.policy.controls.prefix(c))) for c in prefixes]

    def _write(self, queries, config: SamplingConfig, n: int, uniform: Tensor) -> list[list[int]]:
        """Token ids per query and sample, EOS included where it was written."""
        views = len(queries[0])  # 2 when guided: rows are laid out view by view
        stream = _open_stream(self._writer, [q[v] for v in range(views) for q in queries])
        stream.repeat(n)
        written: list[list[int]] = [[] for _ in range(len(queries) * n)]
        alive = torch.arange(len(written))
        for step in range(config.max_new_tokens):
            logits = self._combine(head(self._writer, stream.hidden), views)
            tokens = draw(logits, config, uniform[alive, step]).cpu()
            for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
                written[row].append(token)
            going = (tokens != self.policy.eos_id).nonzero()[:, 0]
            if not len(going) or step + 1 == config.max_new_tokens:
                break
            if len(going) < len(alive):
                stream.select(torch.cat([going + v * len(alive) for v in range(views)]))
                alive = alive[going]
                tokens = tokens[going]
            stream.step(tokens.repeat(views))
        return written

    def _combine(self, logits: Tensor, views: int) -> Tensor:
        if views == 1:
            return logits
        best, worst = torch.log_softmax(logits.float(), -1).chunk(2)
        return best + self.guidance * (best - worst)

    def _completion(self, ids: list[int], config: SamplingConfig) -> Completion:
        finish = "stop" if ids and ids[-1] == self.policy.eos_id else "length"
        return Completion(self.policy.decode(ids), finish, len(ids))


class _Stream:
    """Sequences being written together: the hidden state at their last token, and the cache behind it."""

    hidden: Tensor

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._decoder = plain_model(policy).get_decoder()

    def repeat(self, n: int) -> None:
        """n copies of each sequence, side by side."""
        if n > 1:
            self.hidden = self.hidden.repeat_interleave(n, 0)
            self._cache.batch_repeat_interleave(n)
            self._rows(lambda x: x.repeat_interleave(n, 0))

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        rows = rows.to(self.hidden.device)
        self._cache.batch_select_indices(rows)
        self._rows(lambda x: x[rows])

    _cache: Any

    def _rows(self, change) -> None:
        raise AssertionError


class _DecoderOnly(_Stream):
    """Prompts are padded on the left, so that every row writes into the same column."""

    def __init__(self, policy: Policy, queries) -> None:
        super().__init__(policy)
        sequences = [(*p, *c) for p, c in queries]
        ids, mask = padded([s[::-1] for s in sequences], policy)
        self._mask = mask.flip(-1)
        self._next = self._mask.sum(-1)  # position of the next token
        self._cache = DynamicCache()
        out = self._decoder(
            input_ids=ids.flip(-1), attention_mask=self._mask, past_key_values=self._cache, use_cache=True,
            position_ids=(self._mask.cumsum(-1) - 1).clamp(min=0),
        )  # fmt: skip
        self.hidden = out.last_hidden_state[:, -1]

    def step(self, tokens: Tensor) -> None:
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=-1)
        out = self._decoder(
            input_ids=tokens.to(self._mask.device)[:, None], attention_mask=self._mask, past_key_values=self._cache,
            use_cache=True, position_ids=self._next[:, None],
        )  # fmt: skip
        self.hidden = out.last_hidden_state[:, -1]
        self._next = self._next + 1

    def _rows(self, change) -> None:
        self._mask, self._next = change(self._mask), change(self._next)


class _EncoderDecoder(_Stream):
    """A prompt is encoded once; control tokens open the decoder."""

    def __init__(self, policy: Policy, queries) -> None:
        super().__init__(policy)
        ids, self._mask = padded([p for p, _ in queries], policy)
        encoder = plain_model(policy).get_encoder()
        self._encoded = encoder(input_ids=ids, attention_mask=self._mask).last_hidden_state
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        prefix = torch.tensor([[policy.start_id, *c] for _, c in queries], device=ids.device)
        self._forward(prefix)

    def step(self, tokens: Tensor) -> None:
        self._forward(tokens.to(self._mask.device)[:, None])

    def _forward(self, ids: Tensor) -> None:
        out = self._decoder(
            input_ids=ids, encoder_hidden_states=self._encoded, encoder_attention_mask=self._mask,
            past_key_values=self._cache, use_cache=True,
        )  # fmt: skip
        self.hidden = out.last_hidden_state[:, -1]

    def _rows(self, change) -> None:
        self._mask, self._encoded = change(self._mask), change(self._encoded)


def _open_stream(policy: Policy, queries) -> _DecoderOnly | _EncoderDecoder:
    return (_EncoderDecoder if policy.is_encoder_decoder else _DecoderOnly)(policy, queries)
