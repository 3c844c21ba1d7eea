"""Questions from chat rows: `{"messages": [{"role": "user", "content": ..}, {"role": "assistant",
"content": ..}]}`. Raises `RowError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rationalize.questions.bad_rows import RowError
from rationalize.questions.gold import solution_answer
from rationalize.text import clip

COLUMNS = ("messages", "conversations")

_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system"}
_LONGEST = 6  # words of a reply that is nothing but the answer


def chat_fields(messages: Any) -> dict[str, Any]:
    """`question` and `answer` (the reply, as a solution) of one question and one reply, and the
    `system` message if there is one.
    """
    if not isinstance(messages, list) or not messages:
        raise RowError(f"{clip(messages)} as messages", "a list of {role, content}")
    turns = [_turn(message) for message in messages]
    system = "\n".join(text for role, text in turns if role == "system")
    spoken = [(role, text) for role, text in turns if role != "system"]
    if [role for role, _ in spoken] != ["user", "assistant"]:
        roles = ", ".join(role for role, _ in turns)
        raise RowError(
            f"messages of {clip(roles, 80)}", "one question (user) and one reply (assistant)"
        )
    question, reply = (text.strip() for _, text in spoken)
    if len(reply.split()) > _LONGEST and solution_answer(reply) is None:
        raise RowError(
            f"a reply without an answer sentence ({clip(reply)})",
            "a reply that ends in 'So the answer is ANSWER.', '#### ANSWER' or '\\boxed{ANSWER}', "
            "or is the answer alone",
        )
    return {"question": question, "answer": reply, **({"system": system} if system else {})}


def _turn(message: Any) -> tuple[str, str]:
    """Role and text of a message, in OpenAI's names or in ShareGPT's (`from`, `value`)."""
    if not isinstance(message, Mapping):
        raise RowError(f"{clip(message)} as a message", "{role, content}")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # in parts
        parts: list[Any] = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        if all(isinstance(part, str) for part in parts):
            content = "".join(parts)
    if not isinstance(role, str) or not isinstance(content, str):
        raise RowError(f"{clip(message)} as a message", "a role and a content of text")
    return _ROLES.get(role, role), content
