"""A scalar head on a language model: one linear output on its last hidden states.

A reward model has such a head at one state of a reply, or at the mean of all (`Pooling`); PPO's
value head is one at every token. While it is trained, the head is a submodule of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Linear

from rationalize.answers import MARKER
from rationalize.errors import UserError
from rationalize.models.forward import Row, collate, hidden_at_response, plain_model
from rationalize.processes import by_first

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

HEAD_FILE = "scalar_head.safetensors"

HEAD_NAME = "scalar_head"
"""Name of the submodule while the head is attached."""


def new_head(policy: Policy, *, zero: bool = False, seed: int = 0) -> Linear:
    """A head `d -> 1` without bias: drawn from N(0, 1 / (d + 1)), or zero-initialised."""
    d = plain_model(policy).get_output_embeddings().weight.shape[1]
    scalar_head = Linear(d, 1, bias=False, device=policy.device)
    with torch.no_grad():
        drawn = torch.randn(1, d, generator=torch.Generator().manual_seed(seed))
        scalar_head.weight.copy_(torch.zeros(1, d) if zero else drawn * (d + 1) ** -0.5)
    return scalar_head


@contextmanager
def attached(policy: Policy, scalar_head: Linear) -> Iterator[None]:
    """Make the head a submodule of the model: it is trained, and it is in checkpoints."""
    setattr(policy.model, HEAD_NAME, scalar_head)
    try:
        yield
    finally:
        delattr(policy.model, HEAD_NAME)  # models are saved without it


@contextmanager
def detached(model: Any) -> Iterator[None]:
    """The model without a head that is attached to it, while it is stored."""
    scalar_head = getattr(model, HEAD_NAME, None)
    if scalar_head is None:
        yield
        return
    delattr(model, HEAD_NAME)
    try:
        yield
    finally:
        setattr(model, HEAD_NAME, scalar_head)


def head_values(scalar_head: Linear, hidden_Nd: Tensor) -> Tensor:
    """The head's output (N,) on hidden states (N, d), in float32 and without autocast."""
    with torch.autocast(hidden_Nd.device.type, enabled=False):
        return torch.nn.functional.linear(hidden_Nd.float(), scalar_head.weight.float())[:, 0]


Pooling = Literal["end", "answer", "mean"]
"""Which state of a reply stands for it: `end`, after EOS; `answer`, after the number, letter or
last word of the answer sentence (the end, where there is none); `mean`, of all after its tokens.
"""


def reply_scores(
    policy: Policy, scalar_head: Linear, rows: Sequence[Row], pooling: Pooling = "end"
) -> Tensor:
    """The head's output (B,) on each row's response."""
    [states_Bd] = reply_states(policy, rows, [pooling])
    return head_values(scalar_head, states_Bd)


def reply_states(policy: Policy, rows: Sequence[Row], poolings: Sequence[Pooling]) -> list[Tensor]:
    """For each pooling the state (B, d) that stands for each row's response, in float32."""
    # states are taken where a token is predicted: one more token, never read itself, gives the
    # state after the last one
    longer = [replace(row, response_ids=(*row.response_ids, policy.eos_id)) for row in rows]
    hidden_Nd = hidden_at_response(policy, collate(longer, policy))  # N with the added tokens
    hidden_BTd = hidden_Nd.split([len(row.response_ids) for row in longer])
    return [
        torch.stack([
            _pooled(policy, row, hidden_Td, pooling)
            for row, hidden_Td in zip(rows, hidden_BTd, strict=True)
        ])
        for pooling in poolings
    ]  # fmt: skip


def _pooled(policy: Policy, row: Row, hidden_Td: Tensor, pooling: Pooling) -> Tensor:
    """State t of `hidden_Td` has read the first t tokens of the response."""
    if pooling == "mean":
        return hidden_Td[1:].float().mean(0)
    read = len(row.response_ids) if pooling == "end" else answer_end(policy, row.response_ids)
    return hidden_Td[read].float()


def answer_end(policy: Policy, response_ids: Sequence[int]) -> int:
    """How many tokens of a response reach the end of its answer, without `)` and the full stop; all
    of them where it has no answer sentence.
    """
    text = policy.decode(response_ids)
    if MARKER.lower() not in text.lower():
        return len(response_ids)
    end = len(text.rstrip().rstrip(".").rstrip(")"))
    read = len(response_ids)
    while read > 1 and len(policy.decode(response_ids[: read - 1])) >= end:
        read -= 1
    return read


def save_head(scalar_head: Linear, folder: Path) -> None:
    """Write the weights into `folder`, in float32, for `load_head`."""
    weight = scalar_head.weight.detach().float().cpu().contiguous()
    by_first(lambda: save_file({"weight": weight}, folder / HEAD_FILE))


def load_head(policy: Policy, folder: Path) -> Linear:
    """The head that `save_head` wrote. Raises `UserError` if there is none."""
    file = folder / HEAD_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no {HEAD_FILE} there; expected the folder of a reward model")
    scalar_head = new_head(policy, zero=True)
    with torch.no_grad():
        scalar_head.weight.copy_(load_file(file)["weight"])
    return scalar_head
