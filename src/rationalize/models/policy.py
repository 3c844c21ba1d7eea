"""A policy: a language model with its tokenizer, its prompt format and its control tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.checkpointing import check_checkpointing, checkpointed_layers
from rationalize.models.control import ControlInit, ControlTokens, add_control_rows
from rationalize.models.encoding import (
    TEMPLATE_VALUES,
    chat_ids,
    find_ends,
    id_space,
    own_generation_config,
    plain_ids,
    settle,
    shows_system,
    words_of,
)
from rationalize.models.folders import (
    check_model,
    read_facts,
    save_policy,
    weights_hash,
)
from rationalize.models.loading import LOAD_ERRORS, auto_class, load_weights
from rationalize.models.lora import with_adapter, without_adapter
from rationalize.models.precision import (
    AS_IT_IS,
    Numbers,
    frozen_copy,
    has_fast_bfloat16,
)
from rationalize.models.probe import Decoding, check_adapter, control_states, probe
from rationalize.models.quantised import (
    check_quantising,
    dense_with_adapter,
    four_bits,
)
from rationalize.models.sources import advice_on, name_of, source_of
from rationalize.models.tuning import Tuning, check_tuning, decide_for
from rationalize.templates import DEFAULT_SYSTEM
from rationalize.text import whole_characters

Style = Literal["chat", "plain"]
Precision = Literal["auto", "bfloat16", "float32"]


@dataclass
class Policy:
    """A language model with what is needed to prompt, sample and train it.

    With `tuning="lora"` the model always has an adapter: after a merge, a new one that is
    zero-initialised.
    """

    model: Any
    tokenizer: Any
    name: str
    weights_hash: str
    """SHA-256 of the weights when they were loaded."""
    is_encoder_decoder: bool
    style: Style
    system: str | None
    n_vocab: int
    """Ids below this are words; control ids are not below it, and are never predicted."""
    ends: tuple[int, ...]
    """Ids that end a reply, the one that learning teaches first (`encoding.py`)."""
    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = 16
    adapter_seed: int = 0
    """What an adapter is drawn by (`lora.py`)."""
    precision: Precision = "auto"
    """What learning computes in; `auto`: bfloat16 where the hardware has it."""
    gradient_checkpointing: bool = False
    """Whether learning computes a layer's activations a second time and does not keep them."""
    quantised: bool = False
    """Whether the weights under the adapter are in 4 bits (`quantised.py`)."""
    controls: ControlTokens | None = None
    folds_system: bool = False
    """Whether the chat template has no system message; its text then starts the user's message."""
    trust_remote_code: bool = False
    linear_head: bool = True
    """Whether the output layer is a linear map with at most a scale and a soft cap; if not, the
    model's own code computes logits.
    """
    knows_form: bool = False
    """Whether it was loaded from a folder that `save` wrote: trained here, it answers in our form
    without being told.
    """
    takes_trees: bool = False
    """Whether sequences that share a prefix may be read as one tree (`trees.py`)."""
    decoding: Decoding = Decoding()
    """How replies are decoded exactly (`probe.py`)."""
    own_steps: bool = False
    """Whether replies are decoded by the steps of `decode.py`, which are faster than the model's
    own, and exact.
    """

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def chat(self) -> bool:
        """Whether prompts go through the chat template."""
        return self.style == "chat"

    @property
    def eos_id(self) -> int:
        """The end of a reply that learning teaches."""
        return self.ends[0]

    @property
    def pad_id(self) -> int:
        """Any id will do: padding is recognised by length, never by id."""
        pad_id = self.tokenizer.pad_token_id
        return pad_id if pad_id is not None else self.eos_id

    @property
    def start_id(self) -> int:
        """The first decoder id of an encoder-decoder."""
        return self.model.config.decoder_start_token_id

    @property
    def half(self) -> bool:
        """Whether learning computes in bfloat16."""
        fast = self.precision == "auto" and has_fast_bfloat16(self.device)
        return fast or self.precision == "bfloat16"

    def autocast(self) -> AbstractContextManager:
        """The precision that learning computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Around a pass with gradients: layers keep their inputs alone, where that is asked for."""
        layers = checkpointed_layers(self.model) if self.gradient_checkpointing else []
        for layer in layers:  # the layer alone: what is in it stays in evaluation, without dropout
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of the prompt, up to where the response (or its control tokens) begins."""
        text = whole_characters(text)
        return chat_ids(self, text) if self.chat else plain_ids(self, text)

    def encode_response(self, text: str, *, eos: bool = True) -> list[int]:
        """Ids of a response, ended by EOS, without other special tokens of the tokenizer."""
        ids = words_of(self.tokenizer, whole_characters(text))
        return [*ids, self.eos_id] if eos else ids

    def decode(self, ids: Sequence[int], *, strip: bool = True) -> str:
        """Text of a response, without special and control tokens."""
        words = [i for i in ids if i < self.n_vocab]
        text = self.tokenizer.decode(words, skip_special_tokens=True)
        return text.strip() if strip else text

    def render(self, text: str) -> str:
        """The prompt in the chat template."""
        if self.system and self.folds_system:
            messages = [{"role": "user", "content": f"{self.system}\n\n{text}"}]
        else:
            system = [{"role": "system", "content": self.system}] if self.system else []
            messages = [*system, {"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **TEMPLATE_VALUES
        )

    def add_controls(
        self, bins: Mapping[str, int], *, copies: int = 1, init: ControlInit = "statistics",
        seed: int = 0,
    ) -> None:  # fmt: skip
        """Add `copies` control tokens per reward and bin; no effect if the policy has the same.

        Raises `UserError` if it has others, or if the model cannot learn them. Under LoRA, of the
        embeddings only their rows are trained.
        """
        if self.controls:
            if (dict(self.controls.bins), self.controls.copies) == (dict(bins), copies):
                return
            raise UserError(
                f"{self.name} has control tokens for {dict(self.controls.bins)}, expected none or "
                f"{dict(bins)}: start from a model without them, or name the same rewards and bins"
            )
        self.model = without_adapter(self)
        self.controls = ControlTokens(dict(bins), copies, first_id=id_space(self.tokenizer))
        self.tokenizer.add_special_tokens(
            {"extra_special_tokens": self.controls.names()}, replace_extra_special_tokens=False
        )
        add_control_rows(
            self.model, self.tokenizer, self.controls, self.n_vocab, init=init,
            before=self._before_response(), seed=seed,
        )  # fmt: skip
        before = control_states(self)
        self._wrap()
        check_adapter(self, before)

    def _before_response(self) -> int:
        """Id of the token that a response follows: the prompt's last, or the decoder's first."""
        if self.is_encoder_decoder:
            return int(self.model.config.decoder_start_token_id)
        return self.encode_prompt("?")[-1]

    def become_reference(self) -> Callable[[], AbstractContextManager[Policy]]:
        """Freeze the policy as it is now; learning goes on from here.

        Returns `reference()`, a context manager that yields the frozen policy. Under LoRA the
        adapter is merged and a new one starts, so that the reference is the adapter switched off
        and no second model exists. Under full tuning it is a copy, in bfloat16 (its linear layers
        alone) where learning computes in it: what autocast computes, bit for bit.
        """
        self.merge()
        if self.tuning == "lora":
            return self.reference
        frozen = self.frozen(half=self.half)

        @contextmanager
        def reference() -> Iterator[Policy]:
            with self.autocast():
                yield frozen

        return reference

    def frozen(self, *, half: bool = True) -> Policy:
        """A copy that never learns; `half`: its linear layers in bfloat16 where that is fast."""
        dtype = torch.bfloat16 if half and has_fast_bfloat16(self.device) else self.dtype
        return replace(self, model=frozen_copy(self.model, dtype, linear_only=True))

    @contextmanager
    def reference(self) -> Iterator[Policy]:
        """Under LoRA: this policy with its adapter switched off. ValueError under full tuning."""
        if self.tuning != "lora":
            raise ValueError(
                "a policy under full tuning has no adapter to switch off; use become_reference()"
            )
        with self.model.disable_adapter():
            yield self

    def merge(self) -> None:
        """Merge the adapter into the weights, in float32, and start a new one; weights in 4 bits
        are quantised anew.
        """
        self.model = without_adapter(self)
        self._wrap()

    def save(self, folder: Path, *, first_file: int = 0) -> None:
        """Write the merged weights for `load_weights`; `first_file`: how many bytes of them shall
        be in a file of their own.
        """
        self.export(folder, first_file=first_file)
        if self.quantised:
            self.load_weights(folder)  # as a second start finds them

    def export(
        self, folder: Path, *, bake: Mapping[str, int] | None = None, stored: Path | None = None,
        first_file: int = 0, told: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write a merged model for use anywhere; its chat template sets the bins in `bake`.

        `stored`: a folder that may hold the same weights; their files are linked then. `told`: what
        the folder shall say beside how it is asked.
        """
        if self.quantised:
            dense = replace(self, model=dense_with_adapter(self.model))
            save_policy(dense, folder, bake=bake, told=told)
            return
        self.model = without_adapter(self)
        save_policy(self, folder, bake=bake, stored=stored, first_file=first_file, told=told)
        self._wrap()

    def load_weights(self, folder: Path) -> None:
        """Load weights, tokenizer and control tokens from a folder that `save` wrote."""
        device, numbers = self.device, Numbers(
            self.precision, self.dtype, self.quantised, self.gradient_checkpointing
        )  # fmt: skip
        self.model = None  # one model in memory, not two
        saved = load_policy(
            folder, tuning=self.tuning, style=self.style, system=self.system,
            lora_rank=self.lora_rank, adapter_seed=self.adapter_seed, device=device,
            numbers=numbers, trust_remote_code=self.trust_remote_code,
        )  # fmt: skip
        self.model, self.tokenizer, self.controls = saved.model, saved.tokenizer, saved.controls
        self.n_vocab, self.ends = saved.n_vocab, saved.ends
        self.weights_hash, self.linear_head = saved.weights_hash, saved.linear_head
        self.takes_trees, self.decoding = saved.takes_trees, saved.decoding
        self.own_steps = saved.own_steps
        self.knows_form = saved.knows_form

    def control_rows(self) -> Tensor:
        """A copy of the control tokens' input embeddings, shape (controls, d)."""
        return self._own_rows().detach().clone()

    def extrapolate_control_rows(self, before: Tensor, factor: float) -> None:
        """Set the rows to `before + factor * (rows - before)`: a learning-rate multiplier."""
        rows = self._own_rows()
        with torch.no_grad():
            rows.copy_(before + (rows - before) * factor)

    def _own_rows(self) -> Tensor:
        """The trained input embeddings of control tokens: a view of the matrix, or peft's copy."""
        if not self.controls:
            raise ValueError("the policy has no control tokens")
        embedding = self.model.get_input_embeddings()
        if self.tuning == "lora":
            return embedding.token_adapter.trainable_tokens_delta["default"]
        first = self.controls.first_id
        return embedding.weight[first : first + len(self.controls.ids())]

    def _wrap(self) -> None:
        """Under LoRA: add a zero-initialised adapter; only it and the control rows are trained."""
        if self.tuning == "lora":
            self.model = with_adapter(self)


def load_policy(
    model: str | Path = "default", *, tuning: Tuning = "full",
    style: Literal["auto", "chat", "plain"] = "auto", system: str | None = DEFAULT_SYSTEM,
    lora_rank: int = 16, adapter_seed: int = 0, numbers: Numbers = AS_IT_IS,
    device: str | torch.device | None = None, trust_remote_code: bool = False,
) -> Policy:  # fmt: skip
    """Load a policy from `default`, a folder, a run (its `model/`), a GGUF file, or a hub id.

    `style="auto"`: the style that `save` stored, else the chat template if there is one, else plain
    text. A stored system line replaces the default one. `tuning="lora"` adds an adapter, drawn by
    `adapter_seed`; `auto` does so where `decide_tuning` says it. Raises `UserError` if no model can
    be loaded, not with these `numbers`, or if its logits are not to be had from hidden states.
    """
    from transformers import AutoConfig, AutoTokenizer

    check_tuning(tuning)
    check_model(model)
    source = source_of(model)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if numbers.quantise:
        check_quantising(place)
    try:
        config = AutoConfig.from_pretrained(source, **options)
        kind = auto_class(config)
        if numbers.quantise:
            loaded = load_weights(
                kind, source, config, dtype=torch.bfloat16, **four_bits(place), **options
            )
        else:
            loaded = load_weights(kind, source, config, dtype=numbers.dtype, **options).to(place)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except LOAD_ERRORS as error:
        raise UserError(
            f"no model could be loaded from {str(model)!r}: {error}\n{advice_on(source)}"
        ) from error
    facts = read_facts(source)
    if "chat_template" in facts:
        tokenizer.chat_template = facts["chat_template"]  # the one without a baked control prefix
    settle(tokenizer, continues=not config.is_encoder_decoder)
    auto_style: Style = facts.get("style") or ("chat" if tokenizer.chat_template else "plain")
    rows = loaded.get_input_embeddings().weight.shape[0]
    loaded = loaded.eval()
    if numbers.gradient_checkpointing:
        check_checkpointing(loaded, str(model))
    n_vocab = facts.get("n_vocab") or min(id_space(tokenizer), rows)
    style = auto_style if style == "auto" else style
    policy = Policy(
        model=loaded,
        tokenizer=tokenizer, weights_hash=weights_hash(source, loaded),
        name=name_of(model),
        is_encoder_decoder=bool(config.is_encoder_decoder),
        style=style,
        system=facts.get("system", system) if system == DEFAULT_SYSTEM else system,
        n_vocab=n_vocab, tuning=decide_for(loaded).tuning if tuning == "auto" else tuning,
        ends=find_ends(
            tokenizer, loaded.generation_config, chat=style == "chat", n_vocab=n_vocab
        ),
        gradient_checkpointing=numbers.gradient_checkpointing, quantised=numbers.quantise,
        lora_rank=lora_rank, adapter_seed=adapter_seed, precision=numbers.precision,
        trust_remote_code=trust_remote_code,
        knows_form=bool(facts),
        controls=ControlTokens(**facts["controls"]) if facts.get("controls") else None,
    )  # fmt: skip
    policy.folds_system = policy.chat and bool(policy.system) and not shows_system(policy)
    probe(policy)
    loaded.generation_config = own_generation_config(policy)
    policy._wrap()
    return policy
