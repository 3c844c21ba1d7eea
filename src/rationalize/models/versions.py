"""Weights as another program loads them while the policy goes on learning: names of their states,
and folders with a whole model or with the adapter alone. The policy itself is only read.
"""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rationalize.models.heads import HEAD_NAME, detached
from rationalize.models.stored import read_tensors, weight_files
from rationalize.processes import alone

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_BESIDE = ("lora_", "trainable_tokens_", f"{HEAD_NAME}.")
"""Parts of the names of parameters that are not the model's own: an adapter's, and PPO's values."""


@dataclass(frozen=True)
class Version:
    """Which weights a policy has: equal versions are equal bits."""

    whole: str
    """Digest of all weights; under an adapter, of the frozen ones below it."""
    adapter: str = ""
    """Digest of the active adapter; empty where there is none."""

    @property
    def name(self) -> str:
        return f"{self.whole[:12]}-{self.adapter[:12]}" if self.adapter else self.whole[:12]


class Versions:
    """Names the states of policies. Frozen weights are read once, as long as they stay."""

    def __init__(self) -> None:
        self._model: Callable[[], Any] = lambda: None
        self._frozen: tuple[object, str] = (None, "")

    def of(self, policy: Policy) -> Version:
        """The version of a policy's weights as they are now."""
        frozen = frozen_weights(policy)
        if policy.tuning == "full":
            return Version(_digest(frozen))
        state = tuple((name, w.data_ptr(), w._version) for name, w in frozen.items())
        # a merge writes through `.data`, which leaves `state`, and loading may take the same memory
        # again; both make another model
        if self._model() is not policy.model or self._frozen[0] != state:
            self._model = weakref.ref(policy.model)
            self._frozen = state, _digest(frozen)
        return Version(self._frozen[1], _digest(adapter_weights(policy)))


def frozen_weights(policy: Policy) -> dict[str, Tensor]:
    """The weights below the adapters (all, where there are none), under the plain model's names."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): weight
        for name, weight in policy.model.state_dict().items()
        if not any(part in name for part in _BESIDE)
    }


def adapter_weights(policy: Policy) -> dict[str, Tensor]:
    """The active adapter's weights, as peft stores them."""
    from peft import get_peft_model_state_dict

    model = policy.model
    return get_peft_model_state_dict(
        model, adapter_name=model.active_adapter, save_embedding_layers=False
    )


def is_stored_in(weights: Mapping[str, Tensor], folder: Path) -> bool:
    """Whether a model's folder holds these weights, up to the precision that they are kept in."""
    stored = read_tensors(weight_files(folder))
    return bool(stored) and all(
        name in weights and torch.equal(weights[name].cpu(), tensor.to(weights[name].dtype))
        for name, tensor in stored.items()
    )


def write_adapter(policy: Policy, folder: Path) -> None:
    """Write the active adapter in peft's form."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: w.detach().cpu().contiguous() for name, w in adapter_weights(policy).items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = copy.copy(policy.model.peft_config[policy.model.active_adapter])
    config.inference_mode = True
    config.save_pretrained(str(folder))


def write_whole(policy: Policy, folder: Path, *, adapter: bool = True) -> None:
    """Write a model that is served as it lies: with the active adapter merged, or without it."""
    with alone(), detached(policy.model):  # threads do not know that their process is by itself
        if policy.tuning == "lora":
            # what merges or drops an adapter changes the model: done with a copy
            policy = replace(policy, model=copy.deepcopy(policy.model))
            if not adapter:
                policy = replace(policy, model=policy.model.unload(), tuning="full")
        policy.save(folder)


@torch.no_grad()
def prompt_logprobs(
    policy: Policy, prompts: Iterable[list[int]], *, adapter: bool = True
) -> list[Tensor]:
    """Log-probability of each token of a prompt but the first, (T - 1,) each, in float32.

    Over all rows of the output layer, padding and control tokens among them, as a server has it.
    """
    off = policy.tuning == "lora" and not adapter
    with policy.model.disable_adapter() if off else nullcontext():
        return [_logprobs(policy.model, ids, policy.device) for ids in prompts]


def _logprobs(model: Any, ids: list[int], device: torch.device) -> Tensor:
    row = torch.tensor([ids], device=device)
    logits_TV = model(input_ids=row).logits[0, :-1].float()
    return logits_TV.log_softmax(-1).gather(1, row[0, 1:, None])[:, 0].cpu()


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        flat = weight.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
