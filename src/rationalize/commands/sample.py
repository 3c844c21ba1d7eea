"""`sample` and `ask`: a model writes, to a file or to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from rationalize.commands.asked import asked_questions, shown_questions, split_of
from rationalize.commands.chain import Routing, ask_coalition, coalition_of
from rationalize.commands.on_ray import (
    ExecutorSettings,
    Make,
    check_executor,
    pool_of,
)
from rationalize.commands.output_file import OutputFile
from rationalize.commands.resolve import (
    Form,
    bins_of,
    check_writing,
    is_told,
    load,
    open_writer,
    sampling_of,
    settings_of,
)
from rationalize.commands.resumable_file import SHARDS, begin, end, shards_of, work_folder
from rationalize.errors import UsageError, UserError
from rationalize.processes import by_first
from rationalize.progress import say
from rationalize.records import Attempt, Question, question_row
from rationalize.sampling.config import HttpConfig
from rationalize.text import printable

if TYPE_CHECKING:
    from rationalize.questions.demonstrations import Demonstrations


@dataclass(frozen=True)
class SampleConfig(ExecutorSettings):
    """Write attempts."""

    model: str
    """`default`, a folder, a run, a GGUF file, or a hub id; with `server`, the name of a model
    there.
    """
    questions: str
    """`builtin[:train=200,..]`, a folder of train/dev/test files, a file, a named set, a hub id."""
    split: str | None = None
    """Split of `questions`. None: `train`; of a single file all. Named: of a single file the part
    that a run cuts from it.
    """
    out: Path = Path("attempts.jsonl")
    """Where the attempts go: .jsonl, .jsonl.gz or .parquet."""
    write: Literal["attempts", "questions"] = "attempts"
    """Attempts with their provenance; or questions with the new rationales as their `rationales`,
    for `train sft`.
    """
    n: int = 1
    """Samples per question."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 0.9
    """Draw from the most likely tokens that hold this share."""
    top_k: int = 0
    """Draw from this many most likely tokens; 0: from all."""
    max_new_tokens: int | None = None
    """Length limit of a reply, in tokens; none: that of the run that made the model, or 96."""
    keep_correct: bool = False
    """Keep only attempts with the right answer."""
    keep_unsettled: bool = False
    """Keep only attempts at questions that some answer right and some do not: what GRPO and pairs
    learn from.
    """
    control: dict[str, str] = field(default_factory=dict)
    """Bin per reward to write under: `diversity=best`, `worst`, its number (0 is best), or
    `random`, one by lot for each question.
    """
    guidance: float = 0.0
    """Add this times (log-probability under the best tokens minus under the worst)."""
    mode: Literal["rationale_answer", "answer"] = "rationale_answer"
    """Rationale and answer, or the answer alone."""
    shots: int = 0
    """Solved training questions shown before each question, of its form of answer; never itself."""
    form: Form = "auto"
    """`told`: prompts without demonstrations say the form of the answer; `plain`: they do not;
    `auto`: unless the model was trained here, as far as its folder shows. A served model of ours,
    or one that learned exported rows elsewhere, needs `plain`.
    """
    seed: int = 0
    """Seed of every draw."""
    limit: int | None = None
    """Use the first so many questions."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for questions of another shape: our field -> theirs."""
    skip_bad_rows: str | None = None
    """Go on without rows that cannot be read, and write them to this file."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""
    server: str | None = None
    """Address of an OpenAI-style server, up to `/v1`, that has the model."""
    http: HttpConfig = HttpConfig()
    """How the server is asked."""

    DEFAULT_SPLIT: ClassVar = "train"

    def __post_init__(self) -> None:
        check_writing(self)
        check_executor(self, self.server)
        if self.keep_unsettled and self.n < 2:
            raise UsageError("--keep-unsettled compares the attempts at a question: --n 2 or more")


@dataclass(frozen=True)
class AskConfig:
    """One question, answered on the terminal."""

    question: Annotated[str, Positional, arg(metavar="QUESTION")]
    """The question."""
    model: str = "default"
    """`default`, a folder, a run, a GGUF file, or a hub id."""
    choices: tuple[str, ...] = ()
    """Answers to choose from; none: a free-form answer."""
    context: str | None = None
    """Premise or passage shown before the question."""
    control: dict[str, str] = field(default_factory=dict)
    """Bin per reward to write under: `diversity=best`, `worst`, its number (0 is best), or
    `random`, one by lot for each question.
    """
    guidance: float = 0.0
    """Add this times (log-probability under the best tokens minus under the worst)."""
    routing: Routing | None = None
    """Who works where the model is a coalition: the `controller` chooses a writer and a refiner; or
    all write, and the base keeps the rationale that makes it `surest`. None: as it was trained.
    """
    n: int = 1
    """Replies."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 0.9
    """Draw from the most likely tokens that hold this share."""
    max_new_tokens: int | None = None
    """Length limit of a reply, in tokens; none: that of the run that made the model, or 96."""
    seed: int = 0
    """Seed of every draw."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""

    def __post_init__(self) -> None:
        check_writing(self)


def check_name(config: SampleConfig) -> None:
    """Raise `UsageError` where the file's name ends as one of another format does."""
    from rationalize.questions.files import SUFFIXES

    attempts = config.write == "attempts"
    forms = (".jsonl", ".jsonl.gz", ".parquet") if attempts else (".jsonl",)
    others = tuple(suffix for suffix in SUFFIXES if suffix not in forms)
    if config.out.name.endswith(others):
        raise UsageError(
            f"--out: found {str(config.out)!r}, expected a name ending in {' or '.join(forms)} for "
            f"--write {config.write}"
        )


def sample(config: SampleConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Write attempts and return their counts. A second start with the same file goes on after the
    shards of questions that are finished.
    """
    from rationalize.runs.shards import SHARD, kept_in
    from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts

    if config.write == "questions" and config.mode == "answer":
        raise UsageError("--write questions needs rationales, and --mode answer writes none")
    check_name(config)
    out = OutputFile(config.out, "sample", settings_of(config), overwrite)
    by_first(out.check)  # before anything is loaded
    questions = asked_questions(config)
    demos = _demos(config)
    with (
        pool_of(config, partial(_shard_writer, config)) as pool,
        open_writer(config, pool) as writer,
    ):
        settings = {**settings_of(config), "weights": writer.weights_hash}
        out = OutputFile(config.out, "sample", settings, overwrite)
        by_first(out.claim)
        with work_folder(config.out) as folder:
            begin(folder, settings, overwrite=overwrite)
            if done := SHARD * len(shards_of(folder)):
                done = min(done, len(questions))
                say(f"{config.out}: resuming after {done} of {len(questions)} questions")
            with kept_in(folder / SHARDS):
                attempts = write_attempts(
                    writer.sampler, questions, sampling_of(config),
                    Provenance(split_of(config), config.seed),
                    PromptOptions(config.mode, writer.control, demos, told=writer.told),
                    label="sample",
                )  # fmt: skip
            facts = by_first(partial(_save, attempts, {q.id: q for q in questions}, config, out))
            end(folder)
    return {"out": config.out, "questions": len(questions), **facts}


def _shard_writer(config: SampleConfig) -> Make:
    """What writes shards in an actor."""
    policy = load(config.model, trust_remote_code=config.trust_remote_code)
    from rationalize.sampling.local import Sampler

    return Sampler(policy, guidance=config.guidance).write_shard


def _save(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], config: SampleConfig,
    out: OutputFile,
) -> dict[str, int]:  # fmt: skip
    """Write the file, say what it holds, and return the counts."""
    from rationalize.attempt_files import save_attempts

    correct = [_correct(a, questions) for a in attempts]
    right = [a for a, ok in zip(attempts, correct, strict=True) if ok]
    kept = right if config.keep_correct else attempts
    if config.keep_unsettled:
        wrong = {a.question_id for a, ok in zip(attempts, correct, strict=True) if not ok}
        unsettled = wrong & {a.question_id for a in right}
        kept = [a for a in kept if a.question_id in unsettled]
    if config.write == "questions":
        _save_questions(kept, questions, config.out)
    else:
        save_attempts(kept, config.out, questions)
    out.sign()
    parsed = sum(a.parsed for a in attempts)
    skipped = len(questions.keys() - {a.question_id for a in attempts})
    print(
        f"{config.out}: {len(kept)} of {len(attempts)} attempts at {len(questions)} questions; "
        f"{parsed} parsed, {len(right)} right{f'; {skipped} skipped' if skipped else ''}"
    )
    _warn_of_other_forms(attempts, questions)
    return {
        "attempts": len(attempts), "written": len(kept), "parsed": parsed, "right": len(right),
        "skipped": skipped,
    }  # fmt: skip


def _question(config: AskConfig) -> Question:
    """What is asked, read as a question file's row is. Raises `UsageError`."""
    from rationalize.questions.bad_rows import RowError
    from rationalize.questions.columns import read_row

    given = {"question": config.question, "choices": list(config.choices) or None}
    try:
        question = read_row({**given, "context": config.context}, {}, "asked", scored=True).question
    except RowError as error:
        raise UsageError(f"found {error.found}; expected {error.expected}") from error
    return replace(question, extra={})


def ask(config: AskConfig) -> list[dict[str, Any]]:
    """Print and return the replies to one question."""
    from rationalize.sampling.local import Sampler
    from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts

    question = _question(config)
    if folder := coalition_of(config):
        return ask_coalition(
            folder, question, sampling_of(config), n=config.n, seed=config.seed,
            routing=config.routing, trust_remote_code=config.trust_remote_code,
        )  # fmt: skip
    policy = load(config.model, trust_remote_code=config.trust_remote_code)
    attempts = write_attempts(
        Sampler(policy, guidance=config.guidance), [question], sampling_of(config),
        Provenance("asked", config.seed),
        PromptOptions(control=bins_of(config.control, policy), told=is_told("auto", policy)),
        label="reply",
    )  # fmt: skip
    if control := attempts[0].control:
        print("under " + ", ".join(f"{name} {bin}" for name, bin in control.items()))
    for attempt in attempts:
        print(printable(attempt.rationale) or "(no rationale)")
        print(f"answer: {printable(attempt.prediction or '(none could be read)')}")
    return [
        {
            "rationale": a.rationale,
            "prediction": a.prediction,
            "control": a.control,
            "reply": a.completion,
        }
        for a in attempts
    ]


def _demos(config: SampleConfig) -> Demonstrations | Sequence[Question]:
    """Training questions, shown as solved before questions of their form of answer."""
    if not config.shots:
        return ()
    from rationalize.questions.demonstrations import training_demonstrations
    from rationalize.teacher import solved

    train = shown_questions(config)
    answers = config.mode == "answer"
    count = len(train) if answers else sum(solved(q) is not None for q in train)
    if 0 < count < config.shots:  # where there is none, the built-in ones are shown
        raise UserError(
            f"{config.questions}: found {count} train questions with a rationale, expected "
            f"{config.shots} (--shots); show fewer"
        )
    return training_demonstrations(train, config.shots, answers=answers)


def _correct(attempt: Attempt, questions: Mapping[str, Question]) -> bool:
    return questions[attempt.question_id].is_right(attempt.prediction)


def _warn_of_other_forms(
    attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> None:  # fmt: skip
    """Say so where few replies parse although many state an answer."""
    from rationalize.answers import MARKER
    from rationalize.evaluation.metrics import stated

    parsed = sum(a.parsed for a in attempts)
    said = sum(stated(a, questions[a.question_id]) is not None for a in attempts)
    if parsed < 0.9 * len(attempts) and said - parsed >= 0.1 * len(attempts):
        print(
            f"warning: only {parsed} of {len(attempts)} replies have the form `{MARKER} ..`, "
            f"though {said} state an answer; only that form counts as parsed and right. Show "
            "solved questions (--shots)",
            file=sys.stderr,
        )


def _save_questions(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], out: Path
) -> None:
    """Write the questions that have an attempt, right ones as `rationales`, others as
    `rationales_wrong`.
    """
    from rationalize.files import write_text

    right: dict[str, list[str]] = {}
    wrong: dict[str, list[dict[str, str | None]]] = {}
    for attempt in attempts:
        id, text = attempt.question_id, attempt.rationale
        right.setdefault(id, [])
        if _correct(attempt, questions):
            right[id] += [text] if text and text not in right[id] else []
        else:
            wrong.setdefault(id, []).append({"rationale": text, "predicted": attempt.prediction})
    rows = []
    for id, rationales in right.items():
        q = questions[id]
        rows.append(
            {"id": q.id, **question_row(q), "kind": q.kind, "rationales": rationales,
             "rationales_wrong": wrong.get(id, [])}
        )  # fmt: skip
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
