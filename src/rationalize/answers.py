"""Answers: write, read and compare choice labels, numbers, yes and no. No torch here.

A reply is read in two ways (docs/metrics.md): `strict`, our form, in which the answer follows
`MARKER`, and `stated`, any clear answer. What is learned towards and rewarded is strict.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rationalize.choice_names import named_choice, normalise, same_choice, yes_or_no
from rationalize.latex import equal_latex
from rationalize.numerals import exact_number, number, number_text, plain, whole_number

__all__ = [
    "MARKER", "Reply", "answer_alone", "answer_label", "end_after_answer", "has_marker",
    "is_correct", "label", "normalise", "number", "parse_answer", "parse_reply", "read_answer",
    "read_prediction", "reply_text", "split_reasoning", "stated_answer",
]  # fmt: skip

MARKER = "So the answer is"
"""The sentence that separates the rationale from the answer; the last one in a reply wins."""

# ASCII: Unicode case folding would also match other letters (ſ as s)
_MARKER = re.compile(rf"(?<![a-z]){MARKER}(?![a-z])", re.IGNORECASE | re.ASCII)
_ANSWERED = re.compile(
    rf"{_MARKER.pattern}[\s:*\"'`]*"
    r"(?:\(?[a-z]\)|[-+]?[$£€]?\d|(?:yes|no)\b|[\w-]+[.*\"'`]*[^\S\n]*\n)",
    re.IGNORECASE | re.ASCII,
)
"""The marker with a label, number, yes, no or single word; not `So the answer is not clear`."""
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_THOUGHT = "think|thinking|thought|reasoning"
_OPEN = re.compile(rf"<(?:{_THOUGHT})>|\[THINK\]", re.IGNORECASE)
_CLOSE = re.compile(rf"</(?:{_THOUGHT})>|\[/THINK\]", re.IGNORECASE)

_STOP = re.compile(r"\.(?=\s|$)")  # not in 3.5
_TITLE = re.compile(r"\b[DMS][rst]$")
_ABBREVIATION = re.compile(
    r"(?:^|[^\w.])(?:[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]|Ph\.D|Mrs|Prof|Sgt|Gen|Col|Lt|Capt|Cpl|Rev|Hon|Gov"
    r"|Sen|Rep|Pres|Adm|Maj|Dept|Univ|Hwy|Jr|Mt|Ft|ft|sq|lbs?|oz|yds?|hrs?|Ave"
    r"|Blvd|Rd|Inc|Ltd|Corp|Co|Bros|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mme|Mlle"
    r"|[Vv]ol|[Ff]ig|[Cc]h|[Ee]d|[Nn]os|pp?|vs|etc|approx|ca|cf|est)$"
)
_NEW_SENTENCE = re.compile(
    r"(?:The|It|Its|This|That|These|Those|Because|Since|So|Check|We|I|He|She|They|You|There|Here"
    r"|Therefore|Thus|Hence|If|When|As|In|For|And|But|Not|No|Yes|A|An|To|Note|Explanation)[\s,:]"
)
_MATHS = re.compile(r"(?:(?:\\[\[(]|\$\$)\s*)+")
_EMPHASISED = re.compile(r"(?:\*\*|__)(.+?)(?:\*\*|__)")

_STATEMENT = re.compile(
    r"(?:\b(?P<open>if|whether|unless|suppose|assume)\s+(?:that\s+)?(?:the\s+)?"
    r"(?:correct\s+|right\s+|final\s+)?)?(?P<this>\b(?:this|that)\s+(?:final\s+)?)?"
    r"(?:\banswer|\b(?:correct|right|best|final)\s+(?:option|choice|one))\b"
    r"(?:\s+(?:to|for)\s+(?:the|this|your)\s+\w+)?[\s*_\"'`]*"
    r"(?:(?:is|would\s+be|should\s+be|must\s+be|has\s+to\s+be|will\s+be)\b|[:=：]|[-–—](?=\s))[\s*_:：]*",
    re.IGNORECASE,
)
"""What introduces an answer: `the answer is`, `Answer:`, `the correct option is`."""
_CHOSEN = re.compile(r"\bI(?:'d| would|'ll| will)? (?:choose|pick|select|go with) ", re.IGNORECASE)
_CALLED_RIGHT = re.compile(
    r"(?P<said>[(\[]\s*[A-Za-z]\s*[)\]]|\b(?:option|choice|answer)\s+[(\[]?[A-Za-z][)\]]?|\b[B-Z])"
    r"[*_\"'`]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_NOT = re.compile(r"\W*not\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\W*(?:not|neither|either|between|none|unknown|unclear|uncertain|undefined|undetermined"
    r"|undecided|unsure|unavailable|unanswerable|unspecified)\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(r"\bthis\s+answer\s+is\s+(?:wrong|incorrect)\b", re.IGNORECASE)
_REMARK = re.compile(
    r"(?:in|rounded|expressed|given|based|consistent|supported|obtained)\b"
    r"|an?\s+(?:integer|whole)\b"
    r"|(?:correct|right|reasonable|sensible|plausible|valid|positive|negative|even|odd|exact|final)"
    r"\W*(?:$|[.,;!]|\b(?:because|since|as|and|for|given|here)\b)",
    re.IGNORECASE,
)
"""What goes on about an answer that was stated before: `correct.`, `in dollars`, `an integer`."""
_LOOKED_AT = 40
"""Statements of an answer that are read, from the last on: a model may say the same for pages."""
_ASKED = re.compile(r"\W*\w+\W*\?")
_LABELLED = re.compile(r"(?:(?:option|choice)\s+)?[(\[]?([A-Za-z])[)\]]?(?:[.:)\s–—-]+(.*))?", re.I)


@dataclass(frozen=True)
class Reply:
    """A parsed completion."""

    rationale: str
    prediction: str | None
    """Choice text, or free-form answer; None if none could be read."""
    reasoning: str | None = None
    """What the model thought before its reply, in `<think>` tags; no part of the rationale."""

    @property
    def parsed(self) -> bool:
        return self.prediction is not None


def label(index: int) -> str:
    """`0 -> "(A)"`."""
    return f"({string.ascii_uppercase[index]})"


def answer_label(answer: str, choices: Sequence[str] | None) -> str:
    """What a model writes for this answer: the choice's letter, or the free-form answer."""
    return label(list(choices).index(answer)) if choices else answer


def reply_text(rationale: str, answer: str, choices: Sequence[str] | None) -> str:
    """`{rationale} So the answer is {label}.`; adds a full stop to a rationale without one."""
    rationale = rationale.strip()
    if rationale and rationale[-1] not in ".!?":
        rationale += "."
    sentence = f"{MARKER} {answer_label(answer, choices)}."
    return f"{rationale} {sentence}" if rationale else sentence


def split_reasoning(completion: str) -> tuple[str | None, str]:
    """Reasoning and reply: the part before the last `</think>`, without tags, and the part after.

    The reasoning is None without such tags. Where one is not closed, there is no reply.

    >>> split_reasoning("<think>Snow?</think>So the answer is (B).")
    ('Snow?', 'So the answer is (B).')
    >>> split_reasoning("<think>Snow? So the answer is (B)? Let me")
    ('Snow? So the answer is (B)? Let me', '')
    """
    end = max((match.end() for match in _CLOSE.finditer(completion)), default=0)
    if _OPEN.search(completion, end):
        end = len(completion)
    if not end:
        return None, completion
    return _OPEN.sub("", _CLOSE.sub("", completion[:end])).strip(), completion[end:]


def parse_reply(completion: str, choices: Sequence[str] | None) -> Reply:
    """The strict reading: split at the last marker (case-insensitive), and read what follows it."""
    reasoning, text = split_reasoning(completion)
    markers = list(_MARKER.finditer(text))
    if not markers:
        return Reply(text.strip(), None, reasoning)
    last = markers[-1]
    rationale, answer = text[: last.start()].strip(), read_answer(text[last.end() :], choices)
    return Reply(rationale, answer, reasoning)


def parse_answer(completion: str, choices: Sequence[str] | None) -> Reply:
    """The reply to a prompt that asks for the answer alone: it has no rationale and no marker."""
    reasoning, text = split_reasoning(completion)
    return Reply("", read_answer(text, choices), reasoning)


def stated_answer(completion: str, choices: Sequence[str] | None) -> str | None:
    r"""The stated reading: the strict one, else the last clear answer in any form; None without.

    >>> stated_answer("Snow melts.\n\n**Answer: (B) snow**", ["rock", "snow"])
    'snow'
    >>> [stated_answer(t, None) for t in ("It is \\boxed{9{,}500}.", "Add.\n#### 7", "Add them.")]
    ['9{,}500', '7', None]
    """
    strict = parse_reply(completion, choices).prediction
    text = split_reasoning(completion)[1].strip()
    if strict is not None or not text:
        return strict
    # where an answer may begin; what may be a remark on an answer comes after all the others
    said = [(not _is_remark(m), m.end(), text[m.end() :])
            for m in _STATEMENT.finditer(text) if not m["open"]]  # fmt: skip
    said += [(True, m.end(), s) for m in _BOXED.finditer(text) if (s := _braced(text, m.end()))]
    if choices:
        said += [(True, m.end(), text[m.end() :]) for m in _CHOSEN.finditer(text)]
        said += [(True, m.start(), m["said"]) for m in _CALLED_RIGHT.finditer(text)]
    taken_back = max((m.end() for m in _TAKEN_BACK.finditer(text)), default=0)
    denied: list[str] = []
    for _, begin, after in sorted(said, reverse=True)[:_LOOKED_AT]:
        if _ASKED.match(after):
            continue
        answer = read_answer(after, choices)
        if _DENIED.match(after) and not (answer and choices):
            if (other := _ruled_out(after, choices)) is None:
                return None
            denied.append(other)
        elif answer is not None:
            kept = begin >= taken_back and not any(is_correct(answer, d, choices) for d in denied)
            return answer if kept else None
    return None if denied else _alone(text, choices)


def _is_remark(statement: re.Match[str]) -> bool:
    after = statement.string[statement.end() :]
    return bool((statement["this"] and not _DENIED.match(after)) or _REMARK.match(after))


def _ruled_out(text: str, choices: Sequence[str] | None) -> str | None:
    """The choice or number in `not (A)`, `not 41`."""
    if not (denial := _NOT.match(text)):
        return None
    answer = read_answer(text[denial.end() :], choices)
    return answer if choices or answer is None else number_text(answer)


def _braced(text: str, start: int) -> str | None:
    """What stands in the braces that open at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if not depth:
            return text[start + 1 : i].strip() or None
    return None


def _alone(text: str, choices: Sequence[str] | None) -> str | None:
    """An answer that is the whole last line: `**B**`, `B. snow`, `#### 7`, `yes`."""
    line = plain(text.splitlines()[-1].strip().lstrip("#> ")).rstrip(". ")
    if not choices:
        word = _YES_NO.fullmatch(line) or (line == plain(text).rstrip(". ") and line.isalnum())
        return line if word or whole_number(line) is not None else None
    if found := same_choice(line, choices):
        return found
    labelled = _LABELLED.fullmatch(line)
    index = string.ascii_uppercase.find(labelled[1].upper()) if labelled else -1
    if not labelled or not 0 <= index < len(choices):
        return None
    fits = not labelled[2] or same_choice(labelled[2], choices) == choices[index]
    return choices[index] if fits else None


def has_marker(text: str) -> bool:
    """Whether the text contains the marker, at which a reply is split."""
    return _MARKER.search(text) is not None


def end_after_answer(text: str, stop: str) -> int:
    r"""Where the first `stop` after a reply's first plain answer begins, or -1.

    After few-shot demonstrations, a model often goes on with a question of its own. What it thinks
    before its reply is left alone.

    >>> text = "2 + 2 = 4.\n\nSo the answer is 4.\n\nAnn has 3 pens. So the answer is 3."
    >>> text[: end_after_answer(text, "\n\n")]
    '2 + 2 = 4.\n\nSo the answer is 4.'
    """
    answer = _ANSWERED.search(text, len(text) - len(split_reasoning(text)[1]))
    return text.find(stop, answer.end() - 1) if answer else -1


def read_answer(text: str, choices: Sequence[str] | None) -> str | None:
    """Read a choice, or a free-form answer, from the text after the marker; None without one.

    A choice is named as `named_choice` says. A free-form answer ends with the first sentence of its
    line; the stops of initials and abbreviations end none.
    """
    text = _MATHS.sub("", text.strip().lstrip(":").strip(), count=1).strip()
    if not text:
        return None
    line = text.splitlines()[0].strip()
    if choices:
        return named_choice(line, choices)
    if emphasised := _EMPHASISED.match(line):
        line = emphasised[1]
    elif (boxed := _BOXED.match(line)) and (inside := _braced(line, boxed.end())):
        line = inside
    return _first_sentence(line.rstrip(".").strip()) or None


def read_prediction(text: str, choices: Sequence[str] | None) -> str | None:
    """A prediction that is data: compared whole, and read as an answer only where that fails."""
    if not choices:
        return text.strip() or None
    return same_choice(text, choices) or read_answer(text, choices)


def _first_sentence(line: str) -> str:
    for stop in _STOP.finditer(line):
        before, after = line[: stop.start()], line[stop.end() :].lstrip()
        numbered = before.lower().endswith("no") and after[:1].isdigit()  # No. 5
        abbreviated = _ABBREVIATION.search(before) and not _NEW_SENTENCE.match(after)
        if not (_TITLE.search(before) or numbered or abbreviated):
            return before.strip()
    return line


def answer_alone(prediction: str, answer: str, choices: Sequence[str] | None = None) -> str:
    """The number, yes or no in a free-form prediction, if the gold answer is of that form.

    Otherwise the prediction unchanged.

    >>> answer_alone("24 because 12 * 2 = 24", "7")
    '24'
    """
    alone: str | None = None
    if choices:
        return prediction
    if normalise(answer) in ("yes", "no"):
        alone = yes_or_no(prediction)
    elif whole_number(answer) is not None:
        alone = number_text(prediction)
    return prediction if alone is None else alone


def is_correct(prediction: str | None, answer: str, choices: Sequence[str] | None = None) -> bool:
    """Whether the prediction is the answer.

    Choices are compared by identity; what is none of them, after `normalise`. A free-form answer is
    compared whole, then without mark-up, then its first sentence, its number, its yes or no; LaTeX
    also by its value, where the extra `math` is installed.
    """
    if prediction is None:
        return False
    if choices:
        predicted, gold = same_choice(prediction, choices), same_choice(answer, choices)
        if predicted is not None and gold is not None:
            return predicted == gold
        return normalise(prediction) == normalise(answer)
    lines = prediction.strip().splitlines() or [""]
    sentence = _first_sentence(lines[0].rstrip(".").strip())
    wanted = normalise(answer)
    if wanted in (normalise(prediction), normalise(sentence)):
        return True
    if len(wanted) == 1 and normalise(_STOP.split(lines[0], maxsplit=1)[0]) == wanted:
        return True
    if wanted and normalise(plain(prediction)) == normalise(plain(answer)):
        return True
    if wanted and _tight(prediction) == _tight(answer):
        return True
    if normalise(answer_alone(prediction, answer)) == wanted:
        return True
    value, number_ = whole_number(answer), exact_number(prediction)
    if value is not None and number_ is not None:
        return _close(number_, value)
    return equal_latex(prediction, answer)


def _tight(text: str) -> str:
    """Without spaces beside signs, and between a number and its unit: `(1, 2)` is `(1,2)`."""
    text = normalise(plain(text))
    return re.sub(r"(?<![^\W_])\s+|\s+(?![^\W_])|(?<=\d)\s+(?=[^\W\d_])", "", text)


def _close(a: Fraction, b: Fraction) -> bool:
    """Equal to six decimals, and to three digits where a number is smaller than .001."""
    return abs(a - b) <= min(Fraction(1, 10**6), abs(b) / 1000)
