"""One choice of a server's answer: its text, the reasoning beside it, its end. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rationalize.errors import UserError
from rationalize.records import Completion
from rationalize.sampling.http import Failed, error_of
from rationalize.sampling.replies import Reply
from rationalize.text import clip, whole_characters

# what servers call the end of a reply, in lower case
_STOPPED = {
    "stop", "eos", "eos_token", "end_turn", "end", "stop_sequence", "stop_token", "complete",
    "completed", "finish", "finished", "done",
}  # fmt: skip
_CUT = {
    "length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "model_length",
    "max_completion_tokens", "token_limit", "context_length", "model_context_window_exceeded",
    "incomplete", "error_limit",
}  # fmt: skip
_FILTERED = {
    "content_filter", "content_filtered", "safety", "recitation", "blocklist", "sensitive", "spii",
    "prohibited_content", "guardrail_intervened", "moderation", "refusal", "error_toxic",
}  # fmt: skip
_CALLED = {"tool_calls", "tool_call", "tool_use", "function_call"}
_FAILED = {
    "abort", "aborted", "cancel", "cancelled", "canceled", "timeout", "failed", "failure",
    "interrupted", "unavailable", "overloaded", "rate_limit", "insufficient_system_resource",
}  # fmt: skip
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_REASONING_PARTS = ("thinking", "reasoning", "reasoning_content", "reasoning.text")
_TEXT_PARTS = ("text", "output_text")


def read_choice(choice: Any, *, chat: bool, counted: bool, url: str) -> Reply:
    """The reply in a choice; `counted`: the answer said how many tokens it cost.

    Its completion has no tokens yet. Raises `Failed` where the server failed at it, `Refused` where
    it refused the prompt, and `UserError` where it is no choice.
    """
    oddities: list[str] = []
    text, reasoning = _texts(choice, chat, url, oddities)
    clean, reasoning = whole_characters(text or "").strip(), whole_characters(reasoning).strip()
    if choice.get("error"):
        raise error_of(url, choice)
    end, finish = _finish(choice.get("finish_reason"), oddities)
    if end in _FAILED or (end not in _CUT | _FILTERED and "error" in end):
        raise Failed(f"the finish reason {clip(end)}", f"{url}: answered {_shown(choice)}")
    if chat and not (clean or reasoning or counted or oddities) and end in ("", "stop"):
        raise Failed("an answer without anything", f"{url}: answered {_shown(choice)}")
    if text is not None and clean != text.strip():
        oddities.append("with unpaired surrogates, which were replaced")
    oddities.append(_about_text(clean, reasoning, finish))
    return Reply(Completion(clean, finish, 0), tuple(filter(None, oddities)), reasoning)


def _about_text(text: str, reasoning: str, finish: str) -> str:
    if text:
        return "with reasoning in a field of its own, which no rationale holds" if reasoning else ""
    if not reasoning:
        return "without text"
    if finish == "length":
        return "that were still reasoning at the length limit: raise --max-new-tokens"
    return "that are all reasoning, without text"


def _finish(reason: Any, oddities: list[str]) -> tuple[str, str]:
    """The reason in a common form, empty for none, and `stop` or `length`: only a reply that the
    model ended, or whose end the server does not give, is whole.
    """
    if isinstance(reason, Mapping):
        reason = reason.get("type")
    end = "" if reason is None else str(reason).strip().lower().replace("-", "_").replace(" ", "_")
    end = end.rsplit(".", 1)[-1].removeprefix("finish_reason_")
    if not end or end in _STOPPED:
        return end and "stop", "stop"
    if end in _FILTERED:
        oddities.append("cut by the server's filter")
    elif end in _CALLED:
        oddities.append("that end in the call of a tool, taken as cut")
    elif end not in _CUT:
        oddities.append(f"with the unknown finish reason {clip(end)}, taken as cut")
    return end, "length"


def _texts(choice: Any, chat: bool, url: str, oddities: list[str]) -> tuple[str | None, str]:
    """Text and reasoning of a choice; None for a message without content."""
    holder: Any = choice.get("message") if chat and isinstance(choice, dict) else choice
    content: Any = ...
    if isinstance(holder, dict):
        content = holder.get("content") if chat else holder.get("text", ...)
    parts = [content] if isinstance(content, dict) else content
    if isinstance(parts, list) and all(isinstance(p, dict) for p in parts):
        text: str | None = "".join(_flat(p) for p in parts if p.get("type", "text") in _TEXT_PARTS)
        beside = [p for p in parts if p.get("type") in _REASONING_PARTS]
        known = (*_TEXT_PARTS, *_REASONING_PARTS)
        for kind in sorted({str(p.get("type", "text")) for p in parts} - set(known)):
            oddities.append(f"with a part of type {clip(kind)}, left out")
    elif content is None or isinstance(content, str):
        text, beside = content, []
    else:
        place = "message.content" if chat else "text"
        raise UserError(
            f"{url}: found the choice {_shown(choice)}; expected text or null in its {place}, or "
            "a list of parts with a type, as an OpenAI-style server writes it for "
            f"--http.endpoint {'chat' if chat else 'completions'}"
        )
    if holder.get("refusal"):
        oddities.append("in which the model refuses, in a field of its own")
    fields = (_flat(holder.get(name)) for name in _REASONING_FIELDS)
    return text, _flat(beside) or next(filter(None, fields), "")


def _flat(value: Any) -> str:
    """The text in nested parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_flat, value))
    if isinstance(value, dict):
        names = ("text", "thinking", "reasoning", "content", "summary")
        return next(filter(None, (_flat(value.get(name)) for name in names)), "")
    return ""


def _shown(value: Any) -> str:
    try:
        return clip(json.dumps(value), 200)
    except RecursionError:
        return "a value of many levels"
