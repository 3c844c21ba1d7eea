"""Forward passes that read response positions only, and each prompt once.

Decoder-only rows are `prompt, controls, response`, padded on the right: attention is causal, so no
row sees another's padding. The first response token is predicted at the last control token, or at
the prompt's last token where there are no controls, which is the reference's view: positions are
gathered on each side by itself. Rows with the same prompt in one pass are branches of one sequence
(`packing.py`); an encoder reads the prompt once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.packing import Packed, branch_mask, pack

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_SHORT = 512
"""Tokens: the longest sequence under plain attention, and that shares its prompt."""


@dataclass(frozen=True)
class Row:
    """One training or scoring example in token ids."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    control_ids: tuple[int, ...] = ()
    tag: Any = None
    """Whatever the caller wants to find again."""

    @property
    def length(self) -> int:
        """Tokens that a forward pass reads."""
        return len(self.prompt_ids) + len(self.control_ids) + len(self.response_ids)


GroupOf = Callable[[Row], Hashable]
"""Rows of equal value stay together, in one forward pass."""


@dataclass(frozen=True)
class Batch:
    """Rows with their response tokens laid end to end."""

    rows: Sequence[Row]
    targets: Tensor
    """(N,) response tokens of all rows."""
    row_of: Tensor
    """(N,) index of the row that each belongs to."""


def groups(rows: Sequence[Row], group_of: GroupOf | None) -> list[list[Row]]:
    """Rows that stay together, in the order of each group's first row."""
    if group_of is None:
        return [[row] for row in rows]
    found: dict[Hashable, list[Row]] = {}
    for row in rows:
        found.setdefault(group_of(row), []).append(row)
    return list(found.values())


def micro_batches(
    rows: Sequence[Row], max_tokens: int, group_of: GroupOf | None = None
) -> list[list[Row]]:
    """Groups of rows cut, by length, into passes of at most `max_tokens` padded tokens.

    A group that is larger passes alone. Rows of one prompt lie side by side: a pass shares it.
    """
    longest: dict[tuple[int, ...], int] = {}
    for row in rows:
        longest[row.prompt_ids] = max(row.length, longest.get(row.prompt_ids, 0))

    def place(group: Sequence[Row]) -> tuple[int, tuple[int, ...]]:
        return max((longest[row.prompt_ids], row.prompt_ids) for row in group)

    passes: list[list[Row]] = []
    widest = 0  # row of the current pass, or of another with its prompt
    for group in sorted(groups(rows, group_of), key=place, reverse=True):
        if passes and widest * (len(passes[-1]) + len(group)) <= max_tokens:
            passes[-1].extend(group)
        else:
            passes.append(group)
            widest, _ = place(group)
    return passes


def collate(rows: Sequence[Row], policy: Policy) -> Batch:
    """Raises ValueError for a row without a response, or without anything before it."""
    for row in rows:
        if not row.response_ids or not row.prompt_ids:
            raise ValueError("a row needs a prompt and a response")
    targets = torch.tensor([t for r in rows for t in r.response_ids], device=policy.device)
    sizes = torch.tensor([len(r.response_ids) for r in rows], device=policy.device)
    return Batch(
        rows, targets, torch.repeat_interleave(torch.arange(len(rows), device=policy.device), sizes)
    )


def hidden_at_response(policy: Policy, batch: Batch, *, with_controls: bool = True) -> Tensor:
    """Last hidden states (N, d) at the positions that predict the response tokens.

    Rows with the same prompt share its states, where the model was found to give the same then.
    """
    rows = batch.rows
    controls = [r.control_ids if with_controls else () for r in rows]
    if not policy.is_encoder_decoder:
        return _decoder(policy, rows, controls)
    with _attention_for(policy, max(row.length for row in rows)):
        return _encoder_decoder(policy, rows, controls)


def _encoder_decoder(
    policy: Policy, rows: Sequence[Row], controls: Sequence[tuple[int, ...]]
) -> Tensor:
    model = plain_model(policy)
    order: dict[tuple[int, ...], int] = {}
    prompt_of = [order.setdefault(r.prompt_ids, len(order)) for r in rows]
    ids, mask = padded(list(order), policy)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    own = torch.tensor(prompt_of, device=policy.device)
    start = (policy.start_id,)
    packed = pack([start] * len(rows), controls, [r.response_ids for r in rows], longest=0)
    hidden = model.get_decoder()(
        input_ids=padded(packed.ids, policy)[0],
        encoder_hidden_states=encoded[own],
        encoder_attention_mask=mask[own],
        use_cache=False,
    ).last_hidden_state
    return _gathered(hidden, packed)


def _decoder(policy: Policy, rows: Sequence[Row], controls: Sequence[tuple[int, ...]]) -> Tensor:
    model = plain_model(policy)
    window = getattr(model.config, "sliding_window", None) or _SHORT
    packed = pack(
        [r.prompt_ids for r in rows], controls, [r.response_ids for r in rows],
        longest=min(window, _SHORT) if policy.shares_prompts else 0,
    )  # fmt: skip
    inputs: dict[str, Tensor] = {}
    if len(packed.ids) < len(rows):
        inputs["position_ids"] = padded(packed.positions, policy, fill=0)[0]
        inputs["attention_mask"] = branch_mask(packed.branches, policy.dtype).to(policy.device)
    with _attention_for(policy, packed.longest):
        ids, _ = padded(packed.ids, policy)
        hidden = model.get_decoder()(input_ids=ids, use_cache=False, **inputs).last_hidden_state
    return _gathered(hidden, packed)  # of (B, L, d)


def _gathered(hidden: Tensor, packed: Packed) -> Tensor:
    where = torch.tensor([packed.sequence_of, packed.place], device=hidden.device)
    return hidden[where[0], where[1]]


@contextmanager
def _attention_for(policy: Policy, length: int) -> Iterator[None]:
    """On a processor, plain attention for short rows: the fused kernel's backward pass costs more
    than the score matrices that it saves.
    """
    config = plain_model(policy).config
    before = getattr(config, "_attn_implementation", None)
    plain = policy.device.type == "cpu" and before == "sdpa" and length <= _SHORT
    try:
        if plain:
            config._attn_implementation = "eager"
        yield
    finally:
        if plain:
            config._attn_implementation = before


def head(policy: Policy, hidden: Tensor) -> Tensor:
    """Logits (N, n_vocab) of the words: control tokens have none."""
    if not policy.linear_head:
        return _own_head(policy, hidden)
    model = plain_model(policy)
    output = model.get_output_embeddings()
    scale, cap = _head_facts(model.config)
    bias = output.bias[: policy.n_vocab] if getattr(output, "bias", None) is not None else None
    logits = torch.nn.functional.linear(
        hidden * scale if scale != 1.0 else hidden, output_rows(policy), bias
    )
    return cap * torch.tanh(logits / cap) if cap else logits


def output_rows(policy: Policy) -> Tensor:
    """The lm-head's rows of the words, (n_vocab, d)."""
    rows = plain_model(policy).get_output_embeddings().weight
    # a slice of everything would still cost its gradient another matrix of zeros
    return rows if policy.n_vocab == rows.shape[0] else rows[: policy.n_vocab]


def token_logprobs(policy: Policy, rows: Sequence[Row]) -> list[Tensor]:
    """Log-probability of every response token, one tensor per row, in float32."""
    batch = collate(rows, policy)
    logits = head(policy, hidden_at_response(policy, batch)).float()
    own = torch.log_softmax(logits, -1).gather(1, batch.targets[:, None])[:, 0]
    return list(own.split([len(r.response_ids) for r in rows]))


def padded(
    sequences: Sequence[Sequence[int]], policy: Policy, fill: int | None = None
) -> tuple[Tensor, Tensor]:
    """Right-padded ids and mask, both (B, L); filled with the padding token, or with `fill`."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), policy.pad_id if fill is None else fill)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    return ids.to(policy.device), mask.to(policy.device)


def plain_model(policy: Policy) -> Any:
    """The transformers model, also inside a peft wrapper."""
    get_base = getattr(policy.model, "get_base_model", None)
    return get_base() if get_base else policy.model


def find_head(policy: Policy) -> None:
    """Compare `head` with the model's own logits once; where they differ, the model's own code
    computes them (slower).

    Raises `UserError` where that differs too.
    """
    row = Row(
        tuple(i % policy.n_vocab for i in (5, 6, 7)), tuple(i % policy.n_vocab for i in (8, 9))
    )
    with torch.no_grad():
        hidden = hidden_at_response(policy, collate([row], policy))
        ids = torch.tensor([[*row.prompt_ids, row.response_ids[0]]], device=policy.device)
        if policy.is_encoder_decoder:
            written = torch.tensor([[policy.start_id, row.response_ids[0]]], device=policy.device)
            own = policy.model(input_ids=ids[:, :3], decoder_input_ids=written).logits[0]
        else:
            own = policy.model(input_ids=ids).logits[0, -2:]
        own = own[:, : policy.n_vocab].float()
        for policy.linear_head in (True, False):
            if torch.allclose(
                head(policy, hidden).float(), own, rtol=1e-2, atol=1e-2 * own.std().item()
            ):
                return
    raise UserError(
        f"{policy.name}: the logits of {policy.model.config.model_type!r} could not be computed "
        "from its last hidden states; expected an architecture like Llama, Qwen, Mistral, Phi, "
        "Gemma or T5"
    )


def find_sharing(policy: Policy) -> None:
    """Set `policy.shares_prompts`: whether branches of one sequence get the states of rows of their
    own. Not where attention takes no mask of ours, or where it is not all that tokens are mixed by.
    """
    config = plain_model(policy).config
    masked = getattr(config, "_attn_implementation", None) in ("eager", "sdpa")
    policy.shares_prompts = False
    if policy.is_encoder_decoder or not masked:
        return
    ids = [i % policy.n_vocab for i in range(5, 17)]
    rows = [Row(tuple(ids[:4]), tuple(ids[a:b])) for a, b in ((4, 8), (6, 12), (8, 10))]
    batch = collate(rows, policy)
    with torch.no_grad():
        alone = hidden_at_response(policy, batch).float()
        policy.shares_prompts = True
        try:
            shared = hidden_at_response(policy, batch).float()
        except (TypeError, ValueError, RuntimeError):  # no such argument, no such mask
            policy.shares_prompts = False
            return
    policy.shares_prompts = bool((shared - alone).norm() < 0.02 * alone.norm())


def _own_head(policy: Policy, hidden: Tensor) -> Tensor:
    """The model's own way from the decoder's output to logits: a pass over one token, whose output
    is replaced.
    """
    model = plain_model(policy)

    def replace(_module, _inputs, output):
        output.last_hidden_state = hidden[None]
        return output

    token = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
    inputs = {"decoder_input_ids": token} if policy.is_encoder_decoder else {}
    hook = model.get_decoder().register_forward_hook(replace)
    try:
        return model(input_ids=token, use_cache=False, **inputs).logits[0, :, : policy.n_vocab]
    finally:
        hook.remove()


def _head_facts(config: Any) -> tuple[float, float | None]:
    """Scale before and soft cap after the linear output layer."""
    scale = (
        config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    )  # T5, version 1.0
    return scale, getattr(config, "final_logit_softcapping", None)
