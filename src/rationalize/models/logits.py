"""Logits from the last hidden states: the output layer, as a product or by the model's own code.

Axes: `N` response tokens of all rows, `V` ids of the output layer, `n` those of words, `d` the
hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.forward import (
    Row,
    attention_for,
    close,
    collate,
    hidden_at_response,
    ids_of_words,
    plain_model,
    text_decoder,
    tolerance,
)
from rationalize.models.likelihood import token_nll

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_BLOCK = 2**23
"""Weights in a block of output rows on a CPU; on an accelerator, fewer and larger products."""
_ACCELERATOR_BLOCK = 2**26


def head(policy: Policy, hidden: Tensor) -> Tensor:
    """Logits (N, n_vocab) from hidden states (N, d); control tokens have none."""
    if not policy.linear_head:
        return _model_head(policy, hidden)
    model = plain_model(policy)
    scale, cap = head_scale_and_cap(model.config.get_text_config(decoder=True))
    hidden = hidden * scale if scale != 1.0 else hidden
    bias = output_bias(policy)
    if torch.is_grad_enabled():
        logits = _OutputLayer.apply(hidden, _output_weight(policy), bias, policy.n_vocab)
    else:
        logits = torch.nn.functional.linear(hidden, output_rows(policy), bias)
    return cap * torch.tanh(logits / cap) if cap else logits


class _OutputLayer(torch.autograd.Function):
    """`hidden @ weight[:n].T + bias`; its backward pass takes weights in blocks of rows.

    Autocast and slicing keep or make four matrices of the weights' size in a backward pass: the
    weights in half precision, their gradient, that in float32, and that with zeros for the rows
    beyond n. Here one is made, the gradient; measured by `benchmarks/memory.py`.
    """

    @staticmethod
    def forward(ctx, hidden_Nd, weight_Vd, bias_n, n):
        device = hidden_Nd.device.type
        half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            taken_Nd = hidden_Nd.to(half or weight_Vd.dtype)
            bias = None if bias_n is None else bias_n.to(taken_Nd.dtype)
            logits_Nn = torch.nn.functional.linear(taken_Nd, weight_Vd[:n].to(taken_Nd.dtype), bias)
        ctx.save_for_backward(taken_Nd, weight_Vd)
        ctx.n, ctx.hidden_dtype = n, hidden_Nd.dtype
        return logits_Nn

    @staticmethod
    def backward(ctx, grad_Nn):
        taken_Nd, weight_Vd = ctx.saved_tensors
        grad_Nd = torch.zeros_like(taken_Nd, dtype=torch.float32)
        grad_Vd = torch.empty_like(weight_Vd) if ctx.needs_input_grad[1] else None
        with torch.autocast(grad_Nn.device.type, enabled=False):
            for rows in _row_blocks(weight_Vd[: ctx.n]):
                grad_Nb = grad_Nn[:, rows]
                grad_Nd += grad_Nb @ weight_Vd[rows].to(taken_Nd.dtype)
                if grad_Vd is not None:
                    grad_Vd[rows] = grad_Nb.T @ taken_Nd
        if grad_Vd is not None:
            grad_Vd[ctx.n :] = 0
        grad_n = grad_Nn.sum(0) if ctx.needs_input_grad[2] else None
        return grad_Nd.to(ctx.hidden_dtype), grad_Vd, grad_n, None


def _row_blocks(weight_Vd: Tensor) -> Iterator[slice]:
    on_cpu = weight_Vd.device.type == "cpu"
    size = max(1, (_BLOCK if on_cpu else _ACCELERATOR_BLOCK) // weight_Vd.shape[1])
    for start in range(0, len(weight_Vd), size):
        yield slice(start, min(start + size, len(weight_Vd)))


def _output_weight(policy: Policy) -> Tensor:
    return plain_model(policy).get_output_embeddings().weight


def output_rows(policy: Policy) -> Tensor:
    """The lm-head's weights without those of control tokens, (n_vocab, d)."""
    rows = _output_weight(policy)
    # autocast keeps its copy of a parameter for the next passes, of a slice it does not
    return rows if policy.n_vocab == rows.shape[0] else rows[: policy.n_vocab]


def output_bias(policy: Policy) -> Tensor | None:
    """The lm-head's bias (n_vocab,), where it has one."""
    bias = getattr(plain_model(policy).get_output_embeddings(), "bias", None)
    return None if bias is None else bias[: policy.n_vocab]


def token_logprobs(policy: Policy, rows: Sequence[Row]) -> list[Tensor]:
    """Log-probability of every response token, one tensor per row, in float32."""
    batch = collate(rows, policy)
    logits = head(policy, hidden_at_response(policy, batch))  # (N, n_vocab)
    nll_N, _ = token_nll(logits, batch.targets)
    return list((-nll_N).split([len(r.response_ids) for r in rows]))


def find_head(policy: Policy) -> None:
    """Set `policy.linear_head`: compare `head` with the model's logits on one row.

    If they differ, the model's own code computes logits (slower). Raises `UserError` if those
    differ too.
    """
    some = ids_of_words(policy, 24)
    row = Row(some[:16], some[16:])
    with torch.no_grad():
        hidden = hidden_at_response(policy, collate([row], policy))
        parts = (row.prompt_ids, row.response_ids[:-1])
        prompt, read = (torch.tensor([ids], device=policy.device) for ids in parts)
        if policy.is_encoder_decoder:
            start = torch.full_like(read[:, :1], policy.start_id)
            inputs = {"input_ids": prompt, "decoder_input_ids": torch.cat([start, read], dim=1)}
        else:
            inputs = {"input_ids": torch.cat([prompt, read], dim=1)}
        # the same attention kernel: in bfloat16 two kernels differ by more than a wrong head might
        with attention_for(policy, len(some)):
            logits = policy.model(**inputs, use_cache=False).logits[0, -len(row.response_ids) :]
        expected = logits[:, : policy.n_vocab].float()  # (8, n_vocab)
        for policy.linear_head in (True, False):
            logits = head(policy, hidden).float()
            if close(logits, expected, tolerance(policy)) and _holds_when_loud(policy, hidden):
                return
    raise UserError(
        f"{policy.name}: the logits of {policy.model.config.model_type!r} could not be computed "
        "from its last hidden states; expected an architecture like Llama, Qwen, Mistral, Phi, "
        "Gemma or T5"
    )


def _holds_when_loud(policy: Policy, hidden: Tensor) -> bool:
    """Whether `head` also gives large logits as the model's code does.

    Small ones hardly show a soft cap, and rounding of half precision hides it.
    """
    loud = hidden * (100 / head(policy, hidden).abs().max().clamp(min=1e-3))
    rounding = 1e-3 if policy.dtype == torch.float32 else 2e-2
    return close(head(policy, loud), _model_head(policy, loud), rounding)


def _model_head(policy: Policy, hidden: Tensor) -> Tensor:
    """Logits by the model's own code: a pass over one token whose decoder output is `hidden`."""
    model = plain_model(policy)

    def replace_output(_module, _inputs, output):
        output.last_hidden_state = hidden[None]
        return output

    token = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
    inputs = {"decoder_input_ids": token} if policy.is_encoder_decoder else {}
    hook = text_decoder(policy).register_forward_hook(replace_output)
    try:
        return model(input_ids=token, use_cache=False, **inputs).logits[0, :, : policy.n_vocab]
    finally:
        hook.remove()


def head_scale_and_cap(config: Any) -> tuple[float, float | None]:
    """Scale before the linear output layer (T5 1.0) and soft cap after it (Gemma 2)."""
    scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    return scale, getattr(config, "final_logit_softcapping", None)
