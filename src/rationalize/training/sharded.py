"""Weights shared out over processes while they learn: torch's FSDP2.

Each process holds its part of every matrix, and of its gradient and moments. A layer is put
together for its pass and taken apart after it. What a pass computes is what it computes with whole
weights, so that learning differs from data parallelism in nothing but memory and traffic.

An adapter, control rows under an adapter and a scalar head are small: every process holds them
whole, and the frozen weights beside them are shared out.

Writing and evaluating read whole weights: where what goes on around a step asks for the policy's
model, it is put together in every process until that ends. One copy of the weights must therefore
fit. Passes add up their gradients one by one, so that no gradient is whole either: where a process
has several passes in a step, sums are added in another order than in data parallelism.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from rationalize.errors import UsageError
from rationalize.models.checkpointing import checkpointed_layers
from rationalize.models.forward import Row
from rationalize.models.heads import HEAD_NAME
from rationalize.models.shadows import forget_shadows
from rationalize.models.tuning import device_memory
from rationalize.processes import add_up, by_first, join, world
from rationalize.runs import before_parts

if TYPE_CHECKING:
    from rationalize.models.policy import Policy
    from rationalize.training.learner import Loss, LossOutput

PASS = "run_pass"
"""The method of the model that a whole pass goes through: losses take the decoder and the head by
themselves, so that the model's own `forward` is never called.
"""


Parallel = Literal["auto", "ddp", "fsdp"]


def shares_out(policy: Policy, parallel: Parallel) -> bool:
    """Whether a policy's weights are shared out while it learns; `auto`: where what learns in full
    does not fit in an accelerator's memory otherwise.
    """
    if world().alone or parallel == "ddp":
        return False
    if parallel == "fsdp":
        return True
    if policy.device.type == "cpu" or hasattr(policy.model, "peft_config"):
        return False
    learning = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    memory = by_first(lambda: device_memory(policy.device))
    return memory is not None and WHOLE_BYTES * learning > SHARE * memory


WHOLE_BYTES = 16
"""Of a parameter that learns, held whole: itself, its gradient and two moments in float32."""
SHARE = 0.6
"""Of an accelerator's memory, for them; the rest is activations and copies for writing."""


class Sharded:
    """A policy whose weights are shared out; `close` makes them whole again.

    Raises `UsageError` where they cannot be.
    """

    def __init__(self, policy: Policy) -> None:
        check_shardable(policy)
        join()
        self.policy, self.whole = policy, policy.model
        adapted = hasattr(self.whole, "peft_config")
        self._kept = {
            parameter
            for name, parameter in self.whole.named_parameters()
            if parameter.requires_grad and (adapted or name.startswith(HEAD_NAME))
        }
        self.parts = _share_out(self.whole, self._kept, policy)
        self._empty_whole()
        policy.model = self.parts
        self._shared = {
            name: parameter
            for name, parameter in self.parts.named_parameters()
            if parameter.requires_grad and parameter not in self._kept
        }
        self.parameters: dict[str, Tensor] = {
            name: Parameter(self._shared[name].to_local()) if name in self._shared else parameter
            for name, parameter in self.parts.named_parameters()
            if parameter.requires_grad
        }
        """What this process's optimiser updates: its parts, and what all hold whole."""

    @property
    def shares(self) -> bool:
        """Whether something that learns is shared out: then a checkpoint needs all processes."""
        return bool(self._shared)

    def is_part(self, name: str) -> bool:
        """Whether this process holds a part of a parameter that learns, and not all of it."""
        return name in self._shared

    def placed(self, name: str, values: Tensor) -> Tensor:
        """This process's numbers of a parameter (weights, moments) with their place in the whole;
        in the same memory.
        """
        from torch.distributed.tensor import DTensor

        shared: Any = self._shared.get(name)
        if shared is None or values.shape != self.parameters[name].shape:
            return values
        return DTensor.from_local(
            values, shared.device_mesh, shared.placements, run_check=False, shape=shared.shape,
            stride=shared.stride(),
        )  # fmt: skip

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a parameter's numbers."""
        shared: Any = self._shared.get(name)
        if shared is None or whole.shape != shared.shape:
            return whole
        each = -(-len(whole) // world().size)  # parts as torch.chunk cuts them
        return whole[world().rank * each : (world().rank + 1) * each].contiguous()

    def run(self, loss: Loss, rows: Sequence[Row]) -> LossOutput:
        """The loss of a pass. All processes must run equally many passes."""
        outputs: list[LossOutput] = []

        def call() -> Tensor:
            outputs.append(loss(self.policy, rows))
            return outputs[0].total

        total = getattr(self.parts, PASS)(call)
        return replace(outputs[0], total=total)

    def collect(self) -> None:
        """Leave the gradients that the passes have summed over all processes in `parameters`."""
        for name, shared in self._shared.items():
            gradient: Any = shared.grad
            self.parameters[name].grad = None if gradient is None else gradient.to_local()

    def forget_gradients(self) -> None:
        for shared in self._shared.values():
            shared.grad = None

    @contextmanager
    def put_together(self) -> Iterator[None]:
        """Around what reads the policy: its model is whole as soon as it is asked for."""
        policy, plain = self.policy, type(self.policy)
        policy.__dict__.pop("model")
        policy.__class__ = _waiting(plain, self._fill_whole)
        try:
            with before_parts(lambda: policy.model):
                yield
        finally:
            policy.__class__ = plain
            policy.model = self.parts
            self._empty_whole()

    def close(self, *, whole: bool) -> None:
        """Give the policy its model back; without its weights after an error, where others may not
        come to put them together.
        """
        if whole:
            self._fill_whole()
        self.policy.model = self.whole

    def control_rows(self) -> Tensor:
        """As the policy's, shape (controls, d)."""
        if not self._shared:
            return self.policy.control_rows()
        mine, first = self._own_control_rows()
        assert self.policy.controls
        rows = mine.new_zeros(len(self.policy.controls.ids()), mine.shape[1])
        rows[first : first + len(mine)] = mine
        add_up([rows])  # each row is held by one process: zeros are added to it
        return rows

    def extrapolate_control_rows(self, before: Tensor, factor: float) -> None:
        """As the policy's."""
        if not self._shared:
            self.policy.extrapolate_control_rows(before, factor)
            return
        mine, first = self._own_control_rows()
        start = before[first : first + len(mine)]
        mine.copy_(start + (mine - start) * factor)

    def _own_control_rows(self) -> tuple[Tensor, int]:
        """This process's part of the control tokens' embeddings, and which of them is its first."""
        weight: Any = self.parts.get_input_embeddings().weight
        controls, (n, _) = self.policy.controls, weight.shape
        assert controls
        begins = min(world().rank * -(-n // world().size), n)  # parts as torch.chunk cuts them
        local = weight.to_local().detach()
        first, last = controls.first_id, controls.first_id + len(controls.ids())
        start = min(max(begins, first), last)
        return local[start - begins : max(last - begins, start - begins)], start - first

    def _fill_whole(self) -> Any:
        for module in _sharded_modules(self.parts):
            module.reshard()
        parts = dict(self.parts.named_parameters())
        for name, parameter in self.whole.named_parameters():
            if parameter not in self._kept:
                shared: Any = parts[name]
                parameter.data = shared.full_tensor().detach()
        return self.whole

    def _empty_whole(self) -> None:
        forget_shadows()  # copies are known by where weights lie, which others may take now
        for parameter in self.whole.parameters():
            if parameter not in self._kept:
                parameter.data = parameter.data.new_empty(0)


def check_shardable(policy: Policy) -> None:
    """Raise `UsageError` for what FSDP2 does not share out as it is."""
    import torch.distributed.fsdp as fsdp

    if policy.quantised:
        raise UsageError(
            "--parallel fsdp: weights in 4 bits are not shared out; take tuning=lora, or "
            "--parallel ddp, with which every process holds them whole"
        )
    if not hasattr(fsdp.FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UsageError(
            f"--parallel fsdp: found torch {torch.__version__}, which cannot add gradients up as "
            "they are; expected a newer one. Take --parallel ddp"
        )


def _share_out(whole: Any, kept: set[Parameter], policy: Policy) -> Any:
    """A model of the same modules, each process with its part of the weights; `kept` are the very
    parameters of the `whole` model.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # the copy takes the whole model's memory over, and gives it back layer by layer
    known: dict[int, Any] = {
        id(p): p if p in kept else Parameter(p.detach(), requires_grad=p.requires_grad)
        for p in whole.parameters()
    }
    parts = copy.deepcopy(whole, known)
    mesh = init_device_mesh(policy.device.type, (world().size,))
    setattr(parts, PASS, MethodType(lambda _, call: call(), parts))
    ignored = set(kept)
    for module in (*_layers(parts), parts):
        fully_shard(module, mesh=mesh, ignored_params=ignored)
    for module in _sharded_modules(parts):
        # losses are sums, divided by the weight of the whole batch afterwards
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(parts, PASS)
    return parts


def _layers(model: Any) -> list[Any]:
    """The blocks of a model, which are put together one at a time."""
    if layers := checkpointed_layers(model):
        return layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    longest = max((len(m) for m in lists), default=0)
    return [layer for m in lists if len(m) == longest for layer in m]


def _sharded_modules(model: Any) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _waiting(plain: type, fill: Any) -> type:
    """A class of policies whose `model` is put together when it is first asked for."""

    def model(policy: Any) -> Any:
        policy.__class__ = plain
        policy.model = fill()
        return policy.model

    return type(plain.__name__, (plain,), {"model": property(model)})
