"""Whether plain transformers writes with an exported folder what was measured before the export.

A few replies of every final evaluation are kept as token ids. The folder is loaded as anybody loads
it: its tokenizer, chat template, weights and generation config, no code of ours. The prompts must
be the ids that were measured. At every step of `generate` the measured token must have the highest
score, or one below it by no more than rounding explains: replies are often written in bfloat16.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rationalize.errors import UserError, machine_failure
from rationalize.models.encoding import special_tokens
from rationalize.models.folders import no_bars, read_facts
from rationalize.models.loading import auto_class
from rationalize.records import Attempt
from rationalize.text import clipped

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

log = logging.getLogger(__name__)

REPLIES = 3
"""Replies that an export is compared by."""
TOKENS = 48
"""Most tokens of each that are compared."""
ROUNDING = {"bfloat16": 0.04, "float32": 1e-3}
"""Precision of the measurement -> how far a token's score may be below the highest one, relative to
the largest score. SmolLM2's greedy tokens in bfloat16 were up to .016 below in float32 (12 replies,
411 tokens, of which 13 were below at all).
"""

_FAULTS = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError)
"""What `generate` raises of a model that it cannot drive."""


def kept_replies(
    policy: Policy, attempts: Sequence[Attempt], ids: Sequence[Sequence[int]], dtype: torch.dtype
) -> dict[str, Any]:
    """The replies to compare an export by, as JSON: the longest that ended within `TOKENS`, then
    the shortest others.

    `ids` are the attempts' tokens, `dtype` what they were computed in. Prompts with the text of a
    special token are left out: it is a word here, and the special token in plain transformers.
    """
    special = special_tokens(policy.tokenizer).values()
    told = [
        (a, i)
        for a, i in zip(attempts, ids, strict=True)
        if not any(s in a.prompt for s in special)
    ]
    told.sort(key=lambda pair: (len(pair[1]) > TOKENS, abs(TOKENS - len(pair[1]))))
    exact = dtype == torch.float32 and not policy.quantised
    return {
        "precision": "float32" if exact else "bfloat16",
        "replies": [{"attempt": a.id, "ids": [*i]} for a, i in told[:REPLIES]],
    }


@dataclass(frozen=True)
class _Exported:
    """The folder, loaded by plain transformers."""

    model: Any
    tokenizer: Any
    prefix: list[int]
    """First decoder ids of an encoder-decoder."""


def compare_export(
    policy: Policy, folder: Path, attempts: Mapping[str, Attempt], kept: Mapping[str, Any] | None,
    *, guidance: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Compare the exported folder with attempts (by id) of the policy that were measured.

    `kept` is what `kept_replies` returned. Returns how many replies and tokens were compared, how
    many tokens were a tie, and why replies were not compared, where they were not. Raises
    `UserError` with both texts where they differ.
    """
    replies: list[dict[str, Any]] = kept["replies"] if kept else []
    why_not = _why_not(attempts, kept, guidance)
    facts: dict[str, Any] = {"replies": 0, "tokens": 0, "ties": 0, "not_compared": why_not}
    if not replies:
        return facts
    exported = _load(policy, folder)
    tokenizer = exported.tokenizer
    prompts = [_prompt(policy, tokenizer, attempts[reply["attempt"]]) for reply in replies]
    if kept is None or why_not:
        return facts
    for prompt, reply in zip(prompts, replies, strict=True):
        attempt, measured = attempts[reply["attempt"]], reply["ids"]
        text = tokenizer.decode(measured, skip_special_tokens=True).strip()
        if not text.startswith(attempt.completion):
            raise _differs(attempt, "reads the tokens of a reply", attempt.completion, text)
        part = measured[:TOKENS]
        try:
            written, ties = _write(exported, prompt, part, ROUNDING[kept["precision"]])
        except _FAULTS as error:
            if machine_failure(error):
                raise
            raise _does_not("write with", error) from error
        if written != part:
            texts = [tokenizer.decode(ids) for ids in (part, written)]
            raise _differs(attempt, "writes", *texts)
        facts["replies"] += 1
        facts["tokens"] += len(part)
        facts["ties"] += ties
    return facts


def _why_not(
    attempts: Mapping[str, Attempt], kept: Mapping[str, Any] | None, guidance: float
) -> str | None:
    """Why no reply can be compared."""
    if kept is None:
        return "they were measured by an earlier version, which kept no tokens"
    if not kept["replies"]:
        return "every prompt has the text of a special token"
    if guidance:
        return f"they were measured with guidance {guidance:g}, which transformers lacks"
    sampling = attempts[kept["replies"][0]["attempt"]].sampling
    if sampling["temperature"] or sampling["beams"] > 1:
        return "they were not written greedily"
    if sampling.get("weights") == "int8":
        return "they were written with int8 weights, which round more than a comparison allows"
    return None


def _prompt(policy: Policy, tokenizer: Any, attempt: Attempt) -> Tensor:
    """Ids (1, T) of the prompt as the model card says it is to be asked.

    Raises `UserError` where they are not those of the measurement.
    """
    ids = policy.encode_prompt(attempt.prompt)
    if policy.is_encoder_decoder:
        read = tokenizer(attempt.prompt, return_tensors="pt")
    elif policy.chat or attempt.control:
        if attempt.control and policy.controls:
            ids += policy.controls.prefix(attempt.control)
        read = tokenizer.apply_chat_template(
            [{"role": "user", "content": attempt.prompt}], add_generation_prompt=True,
            return_dict=True, return_tensors="pt",
        )  # fmt: skip
    else:
        read = tokenizer(attempt.prompt + "\n", return_tensors="pt")
    found = read["input_ids"]
    if found[0].tolist() != ids:
        texts = [tokenizer.decode(i) for i in (ids, found[0])]
        raise _differs(attempt, "reads the prompt", *_from_difference(*texts))
    return found


def _from_difference(measured: str, found: str) -> tuple[str, str]:
    """Both texts from shortly before the first character that differs."""
    pairs = enumerate(zip(measured, found, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(measured), len(found)))
    start = max(first - 20, 0)
    return measured[start:], found[start:]


def _load(policy: Policy, folder: Path) -> _Exported:
    """The folder, on the policy's device, or on the processor where a second model has no room.

    Raises `UserError` where plain transformers does not load it.
    """
    from transformers import AutoTokenizer

    kind, trust = auto_class(policy.model.config), policy.trust_remote_code
    try:
        with no_bars():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            model = kind.from_pretrained(folder, dtype="auto", trust_remote_code=trust).eval()
    except Exception as error:  # tokenizers raises nothing narrower for a file it cannot read
        if machine_failure(error):
            raise
        raise _does_not("load", error) from error
    try:
        model = model.to(policy.device)
    except torch.OutOfMemoryError:
        log.warning("no room for the exported model beside the policy: compared on the processor")
        model = model.to("cpu")
    return _Exported(model, tokenizer, read_facts(folder).get("decoder_prefix", []))


@torch.inference_mode()
def _write(
    exported: _Exported, prompt: Tensor, measured: Sequence[int], rounding: float
) -> tuple[list[int], int]:
    """What `generate` writes, and how many tokens were a tie, in which the measured one is taken.

    Ends at the first difference that is no tie; then with what `generate` writes from there.
    """
    model, written, ties = exported.model, list[int](), 0
    while len(written) < len(measured):
        ids = torch.cat([prompt, torch.tensor([written], dtype=torch.long)], 1)
        more: dict[str, Tensor] = {}
        if model.config.is_encoder_decoder:
            ids, opening = prompt, exported.prefix + written
            if len(opening) > 1:  # the first one is the generation config's
                more["decoder_input_ids"] = torch.tensor([opening], device=model.device)
        made = model.generate(
            input_ids=ids.to(model.device), attention_mask=torch.ones_like(ids).to(model.device),
            max_new_tokens=len(measured) - len(written), output_scores=True,
            return_dict_in_generate=True, **more,
        )  # fmt: skip
        tokens = made.sequences[0, -len(made.scores) :].tolist()
        for step, (token, scores_V) in enumerate(zip(tokens, made.scores, strict=True)):
            expected = measured[len(written)]
            if not _tied(scores_V[0].float(), [token, expected], rounding):
                return written + tokens[step:], ties
            written.append(expected)
            if token != expected:
                ties += 1
                break  # go on from the measured token
        else:
            return written, ties
    return written, ties


def _tied(scores_V: Tensor, tokens: Sequence[int], rounding: float) -> bool:
    """Whether the scores of all these tokens are the highest one, up to rounding."""
    largest = scores_V[scores_V.isfinite()].abs().max()
    return bool((scores_V.max() - scores_V[tokens] <= rounding * largest).all())


def _differs(attempt: Attempt, does: str, measured: str, found: str) -> UserError:
    texts = [json.dumps(clipped(text, 1000), ensure_ascii=False) for text in (measured, found)]
    return UserError(
        f"in plain transformers the exported model {does} otherwise than was measured, at question "
        f"{attempt.question_id}:\n  measured: {texts[0]}\n  exported: {texts[1]}"
    )


def _does_not(what: str, error: Exception) -> UserError:
    kind, text = type(error).__name__, str(error)
    return UserError(f"plain transformers does not {what} the exported model: {kind}: {text}")
