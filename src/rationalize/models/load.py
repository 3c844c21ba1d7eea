"""Loading a policy: its model, its tokenizer, its style of prompts, and what the probe finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from rationalize.errors import UserError
from rationalize.models.checkpointing import check_checkpointing
from rationalize.models.control import ControlTokens
from rationalize.models.encoding import find_ends, id_space, own_generation_config, settle
from rationalize.models.folders import check_model, read_facts, weights_hash
from rationalize.models.loading import LOAD_ERRORS, load_weights
from rationalize.models.policy import Policy, Style, Tuning
from rationalize.models.precision import AS_IT_IS, Numbers
from rationalize.models.probe import probe
from rationalize.models.quantised import check_quantising, four_bits
from rationalize.models.sources import advice_on, name_of, source_of
from rationalize.models.tuning import decide_for
from rationalize.templates import DEFAULT_SYSTEM


def load_policy(
    model: str | Path = "default", *, tuning: Tuning = "full",
    style: Literal["auto", "chat", "plain"] = "auto", system: str | None = DEFAULT_SYSTEM,
    lora_rank: int = 16, numbers: Numbers = AS_IT_IS,
    device: str | torch.device | None = None, trust_remote_code: bool = False,
) -> Policy:  # fmt: skip
    """Load a policy from `default`, a folder, a run (its `model/`), a GGUF file, or a hub id.

    `style="auto"`: the style that `save` stored, else the chat template if there is one, else plain
    text. A stored system line replaces the default one. `tuning="lora"` adds an adapter; `auto`
    does so where `decide_tuning` says it. Raises `UserError` if no model can be loaded, or not with
    these `numbers`, or if its logits cannot be computed from its hidden states.
    """
    from transformers import AutoConfig, AutoTokenizer

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
        lora_rank=lora_rank, precision=numbers.precision, trust_remote_code=trust_remote_code,
        knows_form=bool(facts),
        controls=ControlTokens(**facts["controls"]) if facts.get("controls") else None,
    )  # fmt: skip
    policy.folds_system = policy.chat and bool(policy.system) and not _shows_system(policy)
    probe(policy)
    loaded.generation_config = own_generation_config(policy)
    policy._wrap()
    return policy


def auto_class(config: Any) -> Any:
    """The class of transformers that loads this configuration's model."""
    import transformers as hf

    if config.is_encoder_decoder:
        return hf.AutoModelForSeq2SeqLM
    # models of images or sound that have no class for text alone are used with text alone
    several = type(config) in hf.MODEL_FOR_MULTIMODAL_LM_MAPPING
    if several and type(config) not in hf.MODEL_FOR_CAUSAL_LM_MAPPING:
        return hf.AutoModelForMultimodalLM
    return hf.AutoModelForCausalLM


def _shows_system(policy: Policy) -> bool:
    """Whether the chat template renders a system message; some raise, some drop it."""
    from jinja2.exceptions import TemplateError

    try:
        return (policy.system or "") in policy.render("x")
    except TemplateError:
        return False
