"""Log-probabilities of given answers, in one forward pass over whatever they share.

Decoder-only models: prompts and choices are merged into trees of tokens (`trees.py`), so that a
prefix (a system line, a question, a rationale, a bracket) is computed once.
Encoder-decoders: a prompt is encoded once, and its choices share its keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rationalize.models.forward import (
    head,
    output_rows,
    padded,
    plain_model,
    room,
    tree_hidden,
)
from rationalize.models.precision import autocast, has_fast_bfloat16
from rationalize.models.trees import build_prefix_trees

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_BATCH_TOKENS = {True: 1024, False: 16384}  # on a processor, larger batches leave the cache
_HEAD_CHUNK = 256  # positions that the lm-head reads at once: (256, V) logits


@dataclass(frozen=True)
class ChoiceScore:
    """How likely a model finds one continuation; every paper's form derives from these."""

    logprob_sum: float
    """Sum of the tokens' log-probabilities, without EOS."""
    n_tokens: int
    """Tokens of the continuation, without EOS."""
    eos_logprob: float
    """Log-probability of EOS after it."""

    @property
    def mean(self) -> float:
        """Mean token log-probability, without EOS."""
        return self.logprob_sum / self.n_tokens

    @property
    def mean_with_eos(self) -> float:
        """Mean token log-probability, EOS counted as a token (mario.md 4.2)."""
        return (self.logprob_sum + self.eos_logprob) / (self.n_tokens + 1)

    @property
    def utility(self) -> float:
        """Geometric mean of the tokens' probabilities, without EOS (coalition.md 3.1)."""
        return math.exp(self.mean)


@dataclass(frozen=True)
class Continuation:
    """Token ids of a prompt and of what follows it, EOS last."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """What a decoder-only model reads to predict all of the response."""
        return self.prompt + self.response[:-1]


class ChoiceScorer:
    """Scores choices of prompts under one policy; inference only.

    >>> scorer = ChoiceScorer(load_policy())
    >>> scorer.score(["Is ice cold?\\nAnswer."], [["yes", "no"]])[0][0].utility
    0.31
    """

    def __init__(
        self, policy: Policy, *, batch_tokens: int | None = None, tree_tokens: int = 256
    ) -> None:
        self.policy = policy
        self.batch_tokens = batch_tokens or _BATCH_TOKENS[policy.device.type == "cpu"]
        self.tree_tokens = tree_tokens

    def score(
        self, prompts: Sequence[str], choices_of: Sequence[Sequence[str]]
    ) -> list[list[ChoiceScore]]:
        """Per prompt one score per choice; equal (prompt, choice) pairs are computed once."""
        if len(prompts) != len(choices_of):
            raise ValueError(f"{len(prompts)} prompts, but choices of {len(choices_of)}")
        prompt_ids = {p: tuple(self.policy.encode_prompt(p)) for p in dict.fromkeys(prompts)}
        texts = dict.fromkeys(c for choices in choices_of for c in choices)
        choice_ids = {c: tuple(self.policy.encode_response(c)) for c in texts}
        empty = [c for c, ids in choice_ids.items() if len(ids) < 2]
        if empty:
            raise ValueError(f"the choice {empty[0]!r} has no tokens to score")
        wanted = [
            [Continuation(prompt_ids[p], choice_ids[c]) for c in choices]
            for p, choices in zip(prompts, choices_of, strict=True)
        ]
        scores = self.score_ids(list(dict.fromkeys(c for row in wanted for c in row)))
        return [[scores[c] for c in row] for row in wanted]

    @torch.no_grad()
    def score_ids(self, continuations: Sequence[Continuation]) -> dict[Continuation, ChoiceScore]:
        """The score of each distinct continuation."""
        run = self._in_encoder_decoder if self.policy.is_encoder_decoder else self._in_trees
        was_training = self.policy.model.training
        self.policy.model.eval()
        scores: dict[Continuation, ChoiceScore] = {}
        try:
            with autocast(self.policy.device):
                for part, logprobs in run(continuations):
                    for continuation, own in zip(part, logprobs, strict=True):
                        *tokens, eos = own.tolist()
                        scores[continuation] = ChoiceScore(math.fsum(tokens), len(tokens), eos)
        finally:
            self.policy.model.train(was_training)
        return scores

    def _in_trees(
        self, continuations: Sequence[Continuation]
    ) -> Iterator[tuple[list[Continuation], list[Tensor]]]:
        reads = [c.read for c in continuations]
        trees = sorted(
            build_prefix_trees(reads, room(self.policy, reads, self.tree_tokens)), key=len
        )
        for batch in _batches(trees, len, self.batch_tokens):
            hidden = tree_hidden(self.policy, batch)  # (B, T, d)
            width = hidden.shape[1]
            nodes: list[np.ndarray] = []  # where each response token is predicted
            part = [continuations[i] for tree in batch for i in tree.members]
            for row, tree in enumerate(batch):
                for path, i in zip(tree.paths, tree.members, strict=True):
                    nodes.append(row * width + path[len(continuations[i].prompt) - 1 :])
            yield part, _logprobs(self.policy, hidden.flatten(0, 1), nodes, part)

    def _in_encoder_decoder(
        self, continuations: Sequence[Continuation]
    ) -> Iterator[tuple[list[Continuation], list[Tensor]]]:
        groups: dict[tuple[int, ...], list[Continuation]] = {}
        for continuation in continuations:
            groups.setdefault(continuation.prompt, []).append(continuation)
        ordered = sorted(groups.values(), key=lambda g: (len(g), len(g[0].prompt)))
        for batch in _batches(ordered, lambda g: len(g[0].prompt) * len(g), self.batch_tokens):
            part = [c for group in batch for c in group]
            group_of = [i for i, group in enumerate(batch) for _ in group]
            first, rest = _decoder_hidden(self.policy, batch, group_of)  # (G, d), (N, T, d)
            width = rest.shape[1]
            nodes = [
                np.concatenate([[g], len(batch) + n * width + np.arange(len(c.response) - 1)])
                for n, (g, c) in enumerate(zip(group_of, part, strict=True))
            ]
            yield part, _logprobs(self.policy, torch.cat([first, rest.flatten(0, 1)]), nodes, part)


def cast_linears_to_bf16(policy: Policy) -> Policy:
    """Keep the linear layers of a policy that only scores in bfloat16, where that is fast.

    Embeddings, norms and lm-head stay in float32: what autocast computes, without its copies.
    """
    if has_fast_bfloat16(policy.device):
        own = plain_model(policy)
        for module in own.modules():
            if isinstance(module, torch.nn.Linear) and module is not own.get_output_embeddings():
                module.to(torch.bfloat16)
    return policy


def _decoder_hidden(
    policy: Policy, groups: Sequence[Sequence[Continuation]], group_of: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Last hidden states at the start token, (G, d), and at each choice's tokens, (N, T, d)."""
    ids, mask = padded([g[0].prompt for g in groups], policy)
    encoded = (
        plain_model(policy).get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    )
    decoder = plain_model(policy).get_decoder()
    start = torch.full((len(groups), 1), policy.start_id, device=policy.device)
    first = decoder(
        input_ids=start, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=True
    )
    cache = first.past_key_values
    rows = torch.tensor(group_of, device=policy.device)
    cache.batch_select_indices(rows)
    ids, _ = padded([c.response[:-1] for group in groups for c in group], policy)
    rest = decoder(
        input_ids=ids,
        encoder_hidden_states=encoded[rows],  # not read: the cache holds its keys and values
        encoder_attention_mask=mask[rows],
        past_key_values=cache,
        use_cache=True,
    )
    return first.last_hidden_state[:, 0], rest.last_hidden_state


def _logprobs(
    policy: Policy, hidden_MD: Tensor, nodes: Sequence[np.ndarray], part: Sequence[Continuation]
) -> list[Tensor]:
    """Per continuation the log-probabilities of its response; `nodes` say where each is predicted.

    The lm-head reads every node once, without autocast: differences of log-probabilities are small.
    """
    places, order = np.unique(np.concatenate(nodes), return_inverse=True)
    at = torch.from_numpy(order)
    targets = torch.tensor([t for c in part for t in c.response])
    logprobs = torch.empty(len(targets))
    dtype = output_rows(policy).dtype
    hidden = hidden_MD[torch.from_numpy(places).to(hidden_MD.device)].to(dtype)  # (P, d)
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, len(places), _HEAD_CHUNK):
            logits = head(policy, hidden[start : start + _HEAD_CHUNK]).float()
            own = (at >= start) & (at < start + _HEAD_CHUNK)
            rows = (at[own] - start).to(logits.device)
            chosen = logits[rows, targets[own].to(logits.device)]
            logprobs[own] = (chosen - logits.logsumexp(-1)[rows]).cpu()
    return list(logprobs.split([len(c.response) for c in part]))


def _batches(ordered, size, limit: int) -> Iterator[list]:
    """Neighbours together, at most `limit` padded tokens a batch; `ordered` is by rising size."""
    batch: list = []
    for one in ordered:
        if batch and size(one) * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch
