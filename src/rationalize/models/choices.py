"""Log-probabilities of given answers (choices) after a prompt; shared prefixes are computed once.

Decoder-only models: prompts and choices are merged into prefix trees (`trees.py`), so that a
system line, a question, a rationale or a bracket is read once. Encoder-decoders: a prompt is
encoded once, and its choices share its keys and values.

Axes: `B` trees of a batch, `T` padded tokens, `G` prompts, `N` continuations, `M` all hidden states
of a batch, `P` those that predict a token, `R` response tokens, `d` the hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rationalize.models.context import check_context
from rationalize.models.forward import (
    Row,
    collate,
    hidden_at_response,
    max_tree_tokens,
    padded,
    plain_model,
    text_decoder,
    tree_hidden,
)
from rationalize.models.logits import head, output_rows
from rationalize.models.precision import autocast
from rationalize.models.trees import build_prefix_trees
from rationalize.progress import progress_bar

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_CPU_BATCH_TOKENS = 1024  # larger batches do not fit a CPU's cache
_BATCH_TOKENS = 16384
TREE_TOKENS = 256
"""Of prompts and choices that are read as one tree."""
_HEAD_CHUNK = 256  # positions per call of the lm-head: (256, V) logits


@dataclass(frozen=True)
class ChoiceScore:
    """How likely a model finds one continuation; the papers' scores derive from these numbers."""

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
        """Mean token log-probability, EOS included (MaRio's consistency, docs/methods/mario.md)."""
        return (self.logprob_sum + self.eos_logprob) / (self.n_tokens + 1)

    @property
    def utility(self) -> float:
        """Geometric mean of token probabilities, no EOS (U in docs/methods/coalition.md)."""
        return math.exp(self.mean)


@dataclass(frozen=True)
class Continuation:
    """Token ids of a prompt and of the response that follows it, EOS last."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """The tokens that a decoder-only model reads to predict the whole response."""
        return self.prompt + self.response[:-1]


class ChoiceScorer:
    """Scores choices after prompts under one policy; inference only.

    >>> scorer = ChoiceScorer(load_policy())
    >>> scorer.score(["Is ice cold?\\nAnswer."], [["yes", "no"]])[0][0].utility
    0.31
    """

    def __init__(
        self, policy: Policy, *, batch_tokens: int | None = None, tree_tokens: int = TREE_TOKENS
    ) -> None:
        self.policy = policy
        default = _CPU_BATCH_TOKENS if policy.device.type == "cpu" else _BATCH_TOKENS
        self.batch_tokens = batch_tokens or default
        self.tree_tokens = tree_tokens

    def score(
        self, prompts: Sequence[str], choices_of: Sequence[Sequence[str]]
    ) -> list[list[ChoiceScore]]:
        """Per prompt one score per choice; equal (prompt, choice) pairs are computed once.

        Raises ValueError if the lengths differ, or for a choice without tokens, and `OverContext`.
        """
        if len(prompts) != len(choices_of):
            raise ValueError(f"{len(prompts)} prompts, but choices of {len(choices_of)}")
        # tokenise each distinct text once
        prompt_ids = {p: tuple(self.policy.encode_prompt(p)) for p in dict.fromkeys(prompts)}
        texts = dict.fromkeys(c for choices in choices_of for c in choices)
        choice_ids = {c: tuple(self.policy.encode_response(c)) for c in texts}
        empty = [c for c, ids in choice_ids.items() if len(ids) < 2]
        if empty:
            raise ValueError(f"the choice {empty[0]!r} has no tokens to score")
        continuations = [
            [Continuation(prompt_ids[p], choice_ids[c]) for c in choices]
            for p, choices in zip(prompts, choices_of, strict=True)
        ]
        scores = self.score_ids(list(dict.fromkeys(c for row in continuations for c in row)))
        return [[scores[c] for c in row] for row in continuations]

    @torch.no_grad()
    def score_ids(self, continuations: Sequence[Continuation]) -> dict[Continuation, ChoiceScore]:
        """The score of each distinct continuation. Raises `OverContext`."""
        check_context(self.policy, [(c.prompt, c.response) for c in continuations])
        encoder_decoder = self.policy.is_encoder_decoder
        batches = self._encoder_decoder_batches if encoder_decoder else self._tree_batches
        was_training = self.policy.model.training
        self.policy.model.eval()
        scores: dict[Continuation, ChoiceScore] = {}
        try:
            with (
                autocast(self.policy.device),
                progress_bar("texts read", if_long=True) as progress,
            ):
                for batch, logprobs in batches(continuations):
                    for continuation, token_logprobs in zip(batch, logprobs, strict=True):
                        *tokens, eos = token_logprobs.tolist()
                        scores[continuation] = ChoiceScore(math.fsum(tokens), len(tokens), eos)
                    progress(len(scores), len(continuations), 0)
        finally:
            self.policy.model.train(was_training)
        return scores

    def _tree_batches(
        self, continuations: Sequence[Continuation]
    ) -> Iterator[tuple[list[Continuation], list[Tensor]]]:
        """Decoder-only: the continuations batch by batch, with their tokens' log-probabilities."""
        reads = [c.read for c in continuations]
        limit = max_tree_tokens(self.policy, reads, self.tree_tokens)
        trees = sorted(build_prefix_trees(reads, limit), key=len)
        for batch in _batches(trees, len, self.batch_tokens):
            hidden = tree_hidden(self.policy, batch)  # (B, T, d)
            width = hidden.shape[1]
            # per continuation the nodes that predict its response, as indices into (B * T, d)
            nodes: list[np.ndarray] = []
            scored = [continuations[i] for tree in batch for i in tree.members]
            for row, tree in enumerate(batch):
                for path, i in zip(tree.paths, tree.members, strict=True):
                    nodes.append(row * width + path[len(continuations[i].prompt) - 1 :])
            yield scored, _logprobs(self.policy, hidden.flatten(0, 1), nodes, scored)

    def _encoder_decoder_batches(
        self, continuations: Sequence[Continuation]
    ) -> Iterator[tuple[list[Continuation], list[Tensor]]]:
        """Encoder-decoder: the same; all continuations of a prompt are in one batch."""
        groups: dict[tuple[int, ...], list[Continuation]] = {}
        for continuation in continuations:
            groups.setdefault(continuation.prompt, []).append(continuation)
        ordered = sorted(groups.values(), key=lambda g: (len(g[0].prompt), len(g)))
        for batch in _batches(ordered, lambda g: len(g[0].prompt), self.batch_tokens, rows=len):
            scored = [c for group in batch for c in group]
            group_of = [i for i, group in enumerate(batch) for _ in group]
            if not self.policy.decoding.cache:
                yield scored, self._whole(scored)
                continue
            first, rest = _decoder_hidden(self.policy, batch, group_of)  # (G, d), (N, T, d)
            width = rest.shape[1]
            # the first token is predicted at its prompt's start token, the others at the choice's
            # own tokens: indices into (G + N * T, d)
            nodes = [
                np.concatenate([[g], len(batch) + n * width + np.arange(len(c.response) - 1)])
                for n, (g, c) in enumerate(zip(group_of, scored, strict=True))
            ]
            hidden = torch.cat([first, rest.flatten(0, 1)])
            yield scored, _logprobs(self.policy, hidden, nodes, scored)

    def _whole(self, scored: Sequence[Continuation]) -> list[Tensor]:
        """The tokens' log-probabilities of each, read as learning reads them."""
        rows = [Row(c.prompt, c.response) for c in scored]
        hidden = hidden_at_response(self.policy, collate(rows, self.policy))  # (R, d)
        nodes = np.split(
            np.arange(len(hidden)), np.cumsum([len(r.response_ids) for r in rows])[:-1]
        )
        return _logprobs(self.policy, hidden, nodes, scored)


def _decoder_hidden(
    policy: Policy, groups: Sequence[Sequence[Continuation]], group_of: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Last hidden states at the start token, (G, d), and at each choice's tokens, (N, T, d)."""
    # encode each prompt once
    model = plain_model(policy)
    ids, mask = padded([g[0].prompt for g in groups], policy)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    # the start token is common to the choices of a prompt
    decoder = text_decoder(policy)
    start = torch.full((len(groups), 1), policy.start_id, device=policy.device)
    first = decoder(
        input_ids=start, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=True
    )
    # repeat each prompt's cache for its choices, then read these
    cache = first.past_key_values
    rows = torch.tensor(group_of, device=policy.device)  # (N,)
    cache.reorder_cache(rows)
    ids, _ = padded([c.response[:-1] for group in groups for c in group], policy)
    rest = decoder(  # the states are unused: the cache holds their keys and values
        input_ids=ids, encoder_hidden_states=encoded[rows], encoder_attention_mask=mask[rows],
        past_key_values=cache, use_cache=True,
    )  # fmt: skip
    return first.last_hidden_state[:, 0], rest.last_hidden_state


def _logprobs(
    policy: Policy, hidden_Md: Tensor, nodes: Sequence[np.ndarray], scored: Sequence[Continuation]
) -> list[Tensor]:
    """Per continuation the log-probabilities of its response, predicted at `nodes` of `hidden_Md`.

    Without autocast: scores are compared, and their differences are small.
    """
    # continuations share nodes: the lm-head reads each node once
    distinct, inverse = np.unique(np.concatenate(nodes), return_inverse=True)  # (P,), (R,)
    node_R = torch.from_numpy(inverse)
    targets_R = torch.tensor([t for c in scored for t in c.response])
    logprobs_R = torch.empty(len(targets_R))
    dtype = output_rows(policy).dtype
    hidden_Pd = hidden_Md[torch.from_numpy(distinct).to(hidden_Md.device)].to(dtype)
    with torch.autocast(hidden_Pd.device.type, enabled=False):
        for start in range(0, len(distinct), _HEAD_CHUNK):
            logits = head(policy, hidden_Pd[start : start + _HEAD_CHUNK]).float()  # (chunk, V)
            inside = (node_R >= start) & (node_R < start + _HEAD_CHUNK)
            rows = (node_R[inside] - start).to(logits.device)
            target_logits = logits[rows, targets_R[inside].to(logits.device)]
            logprobs_R[inside] = (target_logits - logits.logsumexp(-1)[rows]).cpu()
    return list(logprobs_R.split([len(c.response) for c in scored]))


def _batches(ordered, size, limit: int, rows=lambda entry: 1) -> Iterator[list]:
    """Consecutive entries in batches of at most `limit` padded tokens, if `size`, which is the
    tokens of a row of an entry, never falls.
    """
    batch: list = []
    n = 0
    for entry in ordered:
        if batch and size(entry) * (n + rows(entry)) > limit:
            yield batch
            batch, n = [], 0
        batch.append(entry)
        n += rows(entry)
    if batch:
        yield batch
