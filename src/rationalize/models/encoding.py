"""From text to ids: what a tokenizer and a chat template do, agreed once when they are loaded.

In data nothing is special: the text of a special token that stands in a question, a rationale or a
demonstration is read as the characters that it is written with.
"""

from __future__ import annotations

import functools
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rationalize.errors import UserError

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_TODAY = datetime(2024, 7, 26)

TEMPLATE_VALUES = {
    "enable_thinking": False, "thinking": False, "date_string": _TODAY.strftime("%d %b %Y"),
}  # fmt: skip
"""Variables of some chat templates: no thinking block, and a date that is the same every day."""


def settle(tokenizer: Any, *, continues: bool) -> None:
    """Make a loaded tokenizer one that means the same everywhere: one template, no clock, no holes.

    Of several named templates the default one is kept. Raises `UserError` if there is none.
    `continues`: replies go on in the sequence of the prompt, which therefore gets no end.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template and len(template) > 1:
            names = ", ".join(sorted(template))
            raise UserError(
                f"{tokenizer.name_or_path}: found the chat templates {names}; expected "
                "one called default: keep one of them"
            )
        template = template.get("default") or next(iter(template.values()), None)
    if template:
        # a template that prints today's date would give other prompts tomorrow
        template = re.sub(
            r"strftime_now\(\s*(['\"])(.*?)\1\s*\)",
            lambda call: json.dumps(_TODAY.strftime(call[2]), ensure_ascii=False),
            template,
        )
    tokenizer.chat_template = template
    if continues:
        _append_no_end(tokenizer)
    _fill_holes(tokenizer)


def _append_no_end(tokenizer: Any) -> None:
    """Let a tokenizer put nothing behind a text, also where it is exported."""
    if getattr(tokenizer, "add_eos_token", False):
        tokenizer.add_eos_token = False
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None or tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
        return
    state = json.loads(backend.to_str())
    post = state["post_processor"] or {}
    for part in (post, *post.get("processors", ())):
        while "SpecialToken" in (part.get("single") or [{}])[-1]:
            part["single"].pop()
    tokenizer._tokenizer = type(backend).from_str(json.dumps(state))


def id_space(tokenizer: Any) -> int:
    """The number after the highest id of a word; `len(tokenizer)`, a count, leaves out holes."""
    return max(max(tokenizer.get_vocab().values(), default=-1) + 1, len(tokenizer))


def _fill_holes(tokenizer: Any) -> None:
    """Name unused ids, since new tokens get the count of words as their id: another word's."""
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None or len(tokenizer) == id_space(tokenizer):
        return
    state = json.loads(backend.to_str())
    words = state["model"].get("vocab")
    if isinstance(words, dict):
        unused = set(range(id_space(tokenizer))) - set(tokenizer.get_vocab().values())
        words.update({f"<unused {i}>": i for i in sorted(unused)})
        tokenizer._tokenizer = type(backend).from_str(json.dumps(state))


def own_generation_config(policy: Policy) -> Any:
    """How `generate` of transformers writes as we do: greedily, to the policy's ends, words alone.

    Nothing is taken from the base's own (penalties, forced tokens, sampling, lengths).
    """
    model = policy.model
    # control tokens, and padding rows of the embedding, must never be written
    rows = model.get_output_embeddings().weight.shape[0]
    return model.generation_config_class(
        do_sample=False,  # said, since transformers' pipeline else draws
        bos_token_id=policy.tokenizer.bos_token_id, pad_token_id=policy.pad_id,
        eos_token_id=[*policy.ends] if len(policy.ends) > 1 else policy.eos_id,
        decoder_start_token_id=policy.start_id if policy.is_encoder_decoder else None,
        suppress_tokens=list(range(policy.n_vocab, rows)) or None,
        use_cache=None if policy.decoding.cache else False,
    )  # fmt: skip


def find_ends(
    tokenizer: Any, generation_config: Any, *, chat: bool, n_vocab: int
) -> tuple[int, ...]:
    """Ids that end a reply; the first is the one that learning teaches.

    In a chat that is the special token that the template puts behind an assistant's message, else
    the tokenizer's end. The others are those of the generation config, as `generate` ends at them.
    Raises `UserError` if there is none.
    """
    listed = getattr(generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, list | tuple) else [listed]
    first = _template_end(tokenizer) if chat else None
    ends = dict.fromkeys((first, tokenizer.eos_token_id, *listed))
    known = tuple(i for i in ends if i is not None and 0 <= i < n_vocab)
    if not known:
        raise UserError(
            f"{tokenizer.name_or_path}: neither the tokenizer nor generation_config.json names an "
            "end token; expected eos_token in tokenizer_config.json"
        )
    return known


def _template_end(tokenizer: Any) -> int | None:
    """The first special token behind an assistant's message, None where there is none."""
    from jinja2.exceptions import TemplateError

    said = "So it is"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": said}],
            tokenize=False, **TEMPLATE_VALUES,
        )  # fmt: skip
    except TemplateError:
        return None
    _, found, behind = text.rpartition(said)
    special = special_tokens(tokenizer)
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if found else []
    return next((i for i in ids if i in special), None)


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Texts of special tokens, control tokens among them, by id."""
    added = tokenizer.added_tokens_decoder
    return {i: token.content for i, token in added.items() if token.special and token.content}


def words_of(tokenizer: Any, text: str) -> list[int]:
    """Ids of text, in which nothing is special, and to which nothing is added."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def chat_ids(policy: Policy, text: str) -> list[int]:
    """Ids of the prompt in the chat template, whose own special tokens alone are special."""
    tokenizer = policy.tokenizer
    special = tuple(special_tokens(tokenizer).values())
    found = _any_of(special).findall(text) if special else []
    if not found:
        return tokenizer(policy.render(text), add_special_tokens=False)["input_ids"]
    # numbers between marks stand for the special tokens of the text while the template is rendered
    around = policy.render("x")
    mark = next(c for c in map(chr, range(0xE000, 0x110000)) if c not in around + text)
    order = {word: i for i, word in enumerate(dict.fromkeys(found))}
    rendered = policy.render(_any_of(special).sub(lambda m: f"{mark}{order[m[0]]}{mark}", text))
    ids: list[int] = []
    # the split alternates: text of the template and of the user, number of a special token
    for i, part in enumerate(re.split(f"{mark}(\\d+){mark}", rendered)):
        if i % 2:
            ids += words_of(tokenizer, list(order)[int(part)])
        elif part:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


@functools.lru_cache(maxsize=8)
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))


def plain_ids(policy: Policy, text: str) -> list[int]:
    """Ids of a prompt without a template, with what the tokenizer puts before it.

    An end that it puts behind it is left out where the reply goes on in the same sequence.
    """
    if policy.is_encoder_decoder:
        return policy.tokenizer(text, split_special_tokens=True)["input_ids"]
    ids = policy.tokenizer(text + "\n", split_special_tokens=True)["input_ids"]
    while ids and ids[-1] in policy.ends:
        ids.pop()
    return ids


def shows_system(policy: Policy) -> bool:
    """Whether the chat template renders a system message; some raise, some drop it."""
    from jinja2.exceptions import TemplateError

    try:
        return (policy.system or "") in policy.render("x")
    except TemplateError:
        return False
