"""COALITION's variants: several policies over one base, as adapters or as full copies.

    variants = Variants.of(base, folder, ["variant-1", "variant-2"])
    with variants.active("variant-1") as policy:
        ...                        # samples, scores or trains as variant-1
    with variants.base_policy() as policy:
        ...                        # the base without adapters

A new adapter is zero-initialised: until it is trained, its variant equals the base. Switching
copies no weights.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from rationalize.errors import UserError
from rationalize.files import write_text
from rationalize.models.folders import no_bars
from rationalize.models.lora import adapted_layers
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers
from rationalize.processes import by_first, wait_for

FILE = "variants.json"


@dataclass
class Variants:
    """Named policies over one base."""

    base: Policy
    """A policy under full tuning until the first adapter is added; its weights stay frozen."""
    source: Path
    """The folder that the base was loaded from."""
    shared: list[str] = field(default_factory=list)
    """Names of the adapters on the base."""
    copies: dict[str, Policy] = field(default_factory=dict)
    """Variants with full weights of their own, by name."""
    rank: int = 16
    """LoRA rank of new adapters."""
    seed: int = 0
    """With an adapter's name, the seed of its initial weights."""
    layers: str | list[str] = "all-linear"
    """The linear layers that adapters teach, known once there is one (`lora.py`)."""

    @classmethod
    def of(
        cls, base: Policy, source: Path, names: Sequence[str], *, copies: bool = False,
        start: Policy | None = None, seed: int = 0,
    ) -> Variants:  # fmt: skip
        """Variants that all start equal to the base, or with `copies`, which gives each its own
        full weights, to the policy `start`.
        """
        if copies and base.quantised:
            raise UserError(
                "copies of a model in 4 bits cannot learn; expected adapters. Leave copies out, or "
                "take another tuning than qlora"
            )
        variants = cls(base, source, rank=base.lora_rank, seed=seed)
        for name in names:
            if copies:
                first = start or base
                variants.copies[name] = replace(first, model=copy.deepcopy(first.model))
            else:
                variants.add_adapter(name)
        return variants

    @property
    def names(self) -> list[str]:
        return [*self.shared, *self.copies]

    def add_adapter(self, name: str) -> None:
        """Add a zero-initialised adapter; its random half depends on seed and name.

        Raises ValueError if the name is taken.
        """
        from peft import LoraConfig, get_peft_model

        if name in self.names:
            raise ValueError(f"there is a variant {name!r} already")
        if not self.shared:  # later, the layers are peft's
            self.layers = adapted_layers(self.base)
        config = LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=self.layers)
        # of the two factors of LoRA, B is zero and A is random: leave the global generator alone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{self.seed}/{name}".encode()))
            if self.shared:
                self.base.model.add_adapter(name, config)
            else:
                model = get_peft_model(self.base.model, config, adapter_name=name)
                self.base = replace(self.base, model=model.eval(), tuning="lora")
        adapted = self.base.model.peft_config[name]
        adapted.target_modules = sorted(adapted.target_modules)  # stored in the order of a set else
        self.shared.append(name)

    @contextmanager
    def active(self, name: str) -> Iterator[Policy]:
        """The policy of variant `name`; only its own weights have gradients.

        Raises `UserError` if there is no such variant.
        """
        if name in self.copies:
            yield replace(self.copies[name], name=name)
            return
        if name not in self.shared:
            raise UserError(
                f"there is no variant {name!r}; expected one of {', '.join(self.names)}"
            )
        self.base.model.set_adapter(name)
        yield replace(self.base, name=name)

    @contextmanager
    def base_policy(self) -> Iterator[Policy]:
        """The base policy, with all adapters switched off."""
        if not self.shared:
            yield self.base
            return
        with self.base.model.disable_adapter():
            yield self.base

    def save(self, name: str, folder: Path) -> None:
        """Write one variant's weights (the adapter, or the full copy) for `load`."""
        if name in self.copies:
            self.copies[name].save(folder)
            return
        by_first(lambda: self._save_adapter(name, folder))
        wait_for(folder / FILE)

    def _save_adapter(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with no_bars():
            self.base.model.save_pretrained(folder, selected_adapters=[name])
        write_text(folder / FILE, json.dumps({"adapter": name, "rank": self.rank}))

    def load(self, name: str, folder: Path) -> None:
        """Load one variant's weights from a folder that `save` wrote; adds the variant if new."""
        facts = folder / FILE
        if not facts.exists():
            self.copies.pop(name, None)  # one model in memory, not two
            numbers = Numbers(
                self.base.precision, self.base.dtype,
                gradient_checkpointing=self.base.gradient_checkpointing,
            )  # fmt: skip
            self.copies[name] = load_policy(
                folder, style=self.base.style, system=self.base.system, device=self.base.device,
                numbers=numbers, trust_remote_code=self.base.trust_remote_code,
            )  # fmt: skip
            return
        from safetensors.torch import load_file

        stored = json.loads(facts.read_text())
        if name not in self.shared:
            self.rank = stored["rank"]
            self.add_adapter(name)
        tensors = load_file(folder / stored["adapter"] / "adapter_model.safetensors")
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.base.model, tensors, adapter_name=name)
