"""How many tokens a model can read: what is longer is refused, never read in silence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rationalize.errors import OverContext
from rationalize.models.forward import Row, plain_model
from rationalize.text import clip

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

    Ids = Sequence[int]


def over_context(policy: Policy, prompt: int, response: int) -> str:
    """What is wrong with a prompt and a response (control tokens included) of so many tokens, in
    words; empty where both fit.

    Models whose positions are relative (T5) or recurrent have no limit. That of `longrope` is where
    its angles change: beyond, what a row is worth depends on the others of its batch.
    """
    config = plain_model(policy).config
    if not policy.is_encoder_decoder:
        text = config.get_text_config()
        limit = getattr(text, "max_position_embeddings", None)
        rope = getattr(text, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            limit = rope.get("original_max_position_embeddings") or limit
        if limit and prompt + response > limit:
            return _words(prompt, response, prompt + response, limit)
        return ""
    limit = getattr(config, "max_position_embeddings", None)
    read = getattr(config, "max_encoder_position_embeddings", limit)
    written = getattr(config, "max_decoder_position_embeddings", limit)
    if read and prompt > read:
        return _words(prompt, response, prompt, read)
    if written and response > written:
        return _words(prompt, response, response, written)
    return ""


def row_over_context(policy: Policy, row: Row) -> str:
    """The same of a row that is learned from."""
    return over_context(policy, len(row.prompt_ids), len(row.control_ids) + len(row.response_ids))


def check_context(policy: Policy, texts: Collection[tuple[Ids, Ids]]) -> None:
    """Raise `OverContext` where a prompt and a response that are to be scored do not fit. The
    longest are looked at: the others fit where they do.
    """
    if not texts:
        return
    longest = (
        max(texts, key=lambda pair: len(pair[0]) + len(pair[1])),
        max(texts, key=lambda pair: len(pair[0])),
        max(texts, key=lambda pair: len(pair[1])),
    )
    for prompt_ids, response_ids in longest:
        if wrong := over_context(policy, len(prompt_ids), len(response_ids)):
            raise OverContext(
                f"{policy.name} is to score {wrong} (the prompt ends in "
                f"{clip(policy.decode(prompt_ids)[-50:])}); leave the question out, shorten it or "
                "its rationale, or take a model with a longer context"
            )


def _words(prompt: int, response: int, found: int, limit: int) -> str:
    return (
        f"a prompt of {prompt:,} tokens and up to {response:,} of a response: {found:,} are beyond "
        f"the model's context of {limit:,}"
    )
