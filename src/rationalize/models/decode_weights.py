"""Weights as a decode step reads them: for models of the family of Llama, Qwen2, Qwen3 and Mistral.

Matrices that read the same input are joined (query, key, value; gate and up), adapters are merged,
and on a CPU the matrices are stored in the order in which its kernels read them. `int8` keeps a
byte per weight, with a scale per output, and rounds each input row to 255 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rationalize.errors import UserError
from rationalize.models.forward import plain_model, text_decoder
from rationalize.models.logits import head_scale_and_cap, output_bias, output_rows

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

Kept = Literal["as_is", "bfloat16", "int8"]
"""How matrices are kept; `as_is`: the policy's own tensors, without a copy."""

Product = Callable[[Tensor], Tensor]
"""x (N, inputs) -> (N, outputs): a linear layer, or several joined ones."""

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_NORMS = {"q_norm", "k_norm"}  # of each head, in Qwen3


@dataclass(frozen=True)
class Layer:
    """One layer: attention and a gated MLP, each behind an RMS norm."""

    attention_norm: Tensor
    qkv: Product
    head_norms: tuple[Tensor, Tensor] | None
    """Of queries and keys, where the model has them."""
    out: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


@dataclass(frozen=True)
class DecodeWeights:
    """A whole model. Embeddings are read from the model itself."""

    layers: Sequence[Layer]
    norm: Tensor
    head: Product
    """To the words of the vocabulary; control tokens have no logits."""
    embed: Callable[[Tensor], Tensor]
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """The model's own: (states, positions) -> cosines and sines."""
    activation: Callable[[Tensor], Tensor]
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    scaling: float
    """Of attention's scores."""
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values."""
        return 2 * len(self.layers) * self.kv_heads * self.head_dim * self.dtype.itemsize


def has_own_step(policy: Policy) -> bool:
    """Whether the model's modules are exactly those that a decode step of ours computes.

    Whether they also compute the same is for a probe to say.
    """
    if policy.is_encoder_decoder or not policy.linear_head or policy.quantised:
        return False
    decoder = text_decoder(policy)
    alone = decoder.config is plain_model(policy).config  # no model of images beside it
    if not alone or head_scale_and_cap(decoder.config) != (1.0, None):
        return False
    rotary = getattr(decoder, "rotary_emb", None)
    if getattr(rotary, "rope_type", "") not in ("default", "linear", "llama3", "yarn"):
        return False  # its angles change with the length
    if "llama_4_scaling_beta" in (getattr(decoder.config, "rope_parameters", None) or {}):
        return False  # so do its queries' sizes
    names = {name for name, _ in decoder.named_children()}
    return names == {"embed_tokens", "layers", "norm", "rotary_emb"} and all(
        _is_known(layer) for layer in decoder.layers
    )


def _is_known(layer: Any) -> bool:
    parts = dict(layer.named_children())
    if set(parts) != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return False
    attention = dict(parts["self_attn"].named_children())
    mlp = dict(parts["mlp"].named_children())
    mlp.pop("act_fn", None)
    if set(attention) - _NORMS != _ATTENTION or len(set(attention) & _NORMS) == 1:
        return False
    linear = [attention[name] for name in sorted(_ATTENTION)] + list(mlp.values())
    kinds = {type(_base(module)) for module in linear}
    return (
        set(mlp) == {"gate_proj", "up_proj", "down_proj"}
        and kinds == {torch.nn.Linear}
        and _is_rms_norm(parts["input_layernorm"])
    )


@torch.no_grad()
def _is_rms_norm(norm: Any) -> bool:
    """Whether a norm is the plain one; Gemma's adds one to its weight."""
    weight = getattr(norm, "weight", None)
    if weight is None or getattr(norm, "bias", None) is not None:
        return False
    x = torch.linspace(-1, 1, len(weight), dtype=weight.dtype, device=weight.device)[None]
    return torch.allclose(norm(x), functional.rms_norm(x, x.shape[1:], weight, 1e-6), rtol=0.02)


def read_weights(policy: Policy, kept: Kept) -> DecodeWeights:
    """The weights as they are now, adapters merged. Raises `UserError` for int8 where the processor
    has no instructions for it.
    """
    if kept == "int8":
        check_int8(policy)
    decoder = text_decoder(policy)
    dtype = policy.dtype if kept == "as_is" else torch.bfloat16

    def product(*modules: Any) -> Product:
        return _product(
            [_merged(m) for m in modules], [_base(m).bias for m in modules], kept, dtype
        )

    def vector(module: Any) -> Tensor:
        return module.weight.detach().to(dtype)

    layers = []
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        norms = [vector(getattr(attention, n)) for n in sorted(_NORMS) if hasattr(attention, n)]
        made = Layer(
            attention_norm=vector(layer.input_layernorm),
            qkv=product(attention.q_proj, attention.k_proj, attention.v_proj),
            head_norms=(norms[1], norms[0]) if norms else None,
            out=product(attention.o_proj),
            mlp_norm=vector(layer.post_attention_layernorm),
            gate_up=product(mlp.gate_proj, mlp.up_proj),
            down=product(mlp.down_proj),
        )
        layers.append(made)
    config, attention = decoder.config, decoder.layers[0].self_attn
    return DecodeWeights(
        layers=layers, norm=vector(decoder.norm),
        head=_product([output_rows(policy).detach()], [output_bias(policy)], kept, dtype),
        embed=decoder.embed_tokens, rotary=decoder.rotary_emb,
        activation=decoder.layers[0].mlp.act_fn, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, head_dim=attention.head_dim,
        epsilon=config.rms_norm_eps, scaling=attention.scaling, dtype=dtype, device=policy.device,
    )  # fmt: skip


def check_int8(policy: Policy) -> None:
    """Raise `UserError` where int8 weights cannot be used."""
    if not policy.own_steps:
        raise UserError(
            f"{policy.name}: sampling.weights is int8, which is for models like Llama and Qwen "
            "that are not quantised already; expected auto"
        )
    if policy.device.type != "cpu" or not torch.cpu._is_vnni_supported():
        raise UserError(
            "sampling.weights is int8, which needs a processor with VNNI instructions, and the "
            f"model is on {policy.device.type}; expected auto"
        )


def _base(module: Any) -> Any:
    """The layer under an adapter, or the layer itself."""
    return getattr(module, "base_layer", module)


def _merged(module: Any) -> Tensor:
    """A layer's weight (outputs, inputs), and an active adapter's in float32."""
    weight = _base(module).weight.detach()
    if _base(module) is module or module.disable_adapters or module.merged:
        return weight
    for name in module.active_adapters:
        if name in module.lora_A:
            weight = weight.float() + module.get_delta_weight(name).detach().float()
    return weight


def _product(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None], kept: Kept, dtype: torch.dtype
) -> Product:
    """Layers with one input as one product, whose outputs stand side by side."""
    if kept == "as_is":
        pairs = list(zip((w.to(dtype) for w in weights), biases, strict=True))
        return lambda x: torch.cat([functional.linear(x, w, b) for w, b in pairs], -1)
    weight = torch.cat([w.float() if kept == "int8" else w.to(dtype) for w in weights])
    bias = None
    if any(b is not None for b in biases):
        parts = [
            w.new_zeros(len(w)) if b is None else b.detach()
            for w, b in zip(weights, biases, strict=True)
        ]
        bias = torch.cat([part.to(dtype) for part in parts])
    if kept == "int8":
        return _int8(weight, bias)
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return lambda x: functional.linear(x, weight, bias)
    # in the blocks that the kernel reads: much faster for few rows
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


_TYPICAL_ROWS = 64


def _int8(weight: Tensor, bias: Tensor | None) -> Product:
    """The product of rounded rows and rounded weights, summed in integers."""
    scale = weight.abs().amax(-1).clamp(min=1e-12) / 127  # per output
    rounded = (weight / scale[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(rounded, [_TYPICAL_ROWS, weight.shape[1]])
    no_shift = torch.zeros(len(weight), dtype=torch.long)
    dtype = torch.bfloat16

    def apply(x: Tensor) -> Tensor:
        largest = torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True, dtype=torch.float32)
        step = largest.clamp_(min=1e-12).div_(127)  # per row
        codes = torch.addcdiv(_ZERO, x.float(), step).to(torch.uint8)  # rounds by cutting
        y = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 128, packed, scale, no_shift, None, 1.0, 0, dtype, "none", [], ""
        )  # (N, outputs), still to be scaled by each row's step
        y = y.mul_(step.to(dtype))
        return y if bias is None else y.add_(bias)

    return apply


_ZERO = torch.tensor(128.5)
"""Code of zero, as the kernel reads unsigned rows, and the half that makes cutting a rounding."""
