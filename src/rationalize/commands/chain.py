"""`ask` and `evaluate` for a coalition: who wrote, who refined, what changed, the probabilities."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rationalize.errors import UsageError
from rationalize.records import Attempt, Question
from rationalize.report.chains import changes
from rationalize.text import printable

if TYPE_CHECKING:
    from rationalize.methods.coalition.inference import Chain
    from rationalize.sampling.config import SamplingConfig


Routing = Literal["controller", "surest"]
"""Who works in a coalition, as its training's `--routing` says."""


def coalition_folder(model: str) -> Path | None:
    """The folder of a coalition: `model`, or its `coalition/` (a run); None for other models."""
    for folder in (Path(model), Path(model) / "coalition"):
        if (folder / "coalition.json").is_file():
            return folder
    return None


def coalition_of(config: Any) -> Path | None:
    """The folder of the coalition that a command's `model` is, else None.

    Raises `UsageError` where it asks a coalition for what it cannot do, or others for `routing`.
    """
    folder = coalition_folder(config.model) if not getattr(config, "server", None) else None
    if folder is None:
        if config.routing:
            raise UsageError(f"--routing says who works in a coalition; {config.model} is none")
        return None
    if config.control or config.guidance:
        raise UsageError(f"{config.model} is a coalition, which has no control tokens")
    if getattr(config, "mode", "rationale_answer") != "rationale_answer":
        raise UsageError(f"{config.model} is a coalition, which always writes a rationale first")
    if getattr(config, "form", "auto") == "told":
        raise UsageError(f"{config.model} is a coalition, which was trained on plain prompts")
    return folder


def coalition_hash(folder: Path) -> str:
    """A hash of all its weights: the base's, the variants' and the controller's."""
    from rationalize.models.folders import weights_hash

    parts = sorted({file.parent for file in folder.rglob("*.safetensors")})
    return hashlib.sha256("".join(weights_hash(p, None) for p in parts).encode()).hexdigest()


def chain_attempts(
    folder: Path, questions: Sequence[Question], sampling: SamplingConfig, *, split: str,
    seed: int, name: str, routing: Routing | None = None, trust_remote_code: bool = False,
) -> tuple[list[Attempt], list[dict[str, Any]]]:  # fmt: skip
    """The coalition's chains as attempts of `name`, and as rows for files and the page."""
    from rationalize.methods.coalition.inference import Coalition

    coalition = Coalition.load(folder, trust_remote_code=trust_remote_code)
    chains = coalition.chains(questions, sampling, split=split, seed=seed, routing=routing)
    attempts = [replace(c.as_attempt(name), writer=name, seed=seed) for c in chains]
    return attempts, [{"method": name, "split": split, **c.as_row()} for c in chains]


def ask_coalition(
    folder: Path, question: Question, sampling: SamplingConfig, *, n: int, seed: int,
    routing: Routing | None = None, trust_remote_code: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Print `n` chains for one question, and return them as rows."""
    from rationalize.methods.coalition.inference import Coalition

    coalition = Coalition.load(folder, trust_remote_code=trust_remote_code)
    rows = []
    for i in range(n):
        [chain] = coalition.chains(
            [question], sampling, split="asked", seed=seed + i, routing=routing
        )
        print(chain_text(chain, colour=sys.stdout.isatty()))
        rows.append(chain.as_row())
    return rows


def chain_text(chain: Chain, *, colour: bool = False) -> str:
    """The chain as lines; `what changed` marks [-deleted-] and {+inserted+} words."""
    written, refined = printable(chain.written.rationale), printable(chain.rationale)
    answer = chain.answer
    lines = [f"{chain.writer} writes:  {written or '(nothing)'}"]
    if chain.refiner == "keep":
        lines.append("kept as it is")
    else:
        changed = word_diff(written, refined, colour=colour)
        lines.append(f"{chain.refiner} refines: {refined}")
        lines.append(f"what changed: {changed or '(nothing)'}")
    lines.append(f"answer: {printable(chain.prediction or '(none could be read)')}")
    for choice, alone, before, after in zip(
        chain.question.choices or (), answer.alone, answer.before, answer.after, strict=True
    ):
        views = f"{alone:.2f} alone, {before:.2f} as written, {after:.2f} refined"
        lines.append(f"  {printable(choice)}: {views}")
    return "\n".join(lines)


def word_diff(before: str, after: str, *, colour: bool = False) -> str:
    """The differences, word by word.

    >>> word_diff("Oil is heavier than water.", "Oil is lighter than water.")
    'Oil is [-heavier-] {+lighter+} than water.'
    """
    gone, come = ("\x1b[31m{}\x1b[0m", "\x1b[32m{}\x1b[0m") if colour else ("[-{}-]", "{{+{}+}}")
    forms = {"same": "{}", "gone": gone, "come": come}
    return " ".join(forms[kind].format(words) for kind, words in changes(before, after))
