"""`evaluate` and `compare`: numbers with intervals, a table, a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from rationalize.commands.asked import evaluated_questions, split_of, trained_run
from rationalize.commands.chain import Routing, chain_attempts, coalition_hash, coalition_of
from rationalize.commands.output_file import OutputFile
from rationalize.commands.resolve import (
    Form,
    ScorerFolders,
    Writer,
    check_writing,
    known_names,
    open_writer,
    rewards_of,
    sampling_of,
    settings_of,
)
from rationalize.config.checks import at_least
from rationalize.errors import UsageError
from rationalize.records import Attempt, Question
from rationalize.sampling.config import HttpConfig

if TYPE_CHECKING:
    from rationalize.evaluation.results import Results
    from rationalize.runs import Run

_CHAINS = "chains.json"
"""File in a run's folder: how a coalition answered."""


@dataclass(frozen=True)
class EvaluateConfig(ScorerFolders):
    """Accuracy and every reward, with intervals."""

    model: str
    """`default`, a folder, a run (a coalition's too), or a hub id; with `server`, the name of a
    model there.
    """
    questions: str
    """`builtin[:train=200,..]`, a folder of train/dev/test files, a file, a named set, a hub id."""
    out: Path = Path("runs/evaluate")
    """Folder for results.json, report.html and the attempts; a second start resumes it."""
    split: str | None = None
    """Split of `questions`. None: `test`; of a single file all, but of the one that the model's run
    was trained on the part `test`. Named: of a single file the part that a run cuts from it.
    """
    train: str | None = None
    """Questions whose train split gives the majority answer and is checked for overlap; none:
    `questions`, if it has one.
    """
    name: str | None = None
    """What tables call this model; none: its own name."""
    rewards: tuple[str, ...] = (
        "correctness", "diversity", "length", "option_copying", "answer_leak", "repetition",
    )  # fmt: skip
    """Rewards and diagnostics by name, or `module:function`."""
    fluency_model: str = "default"
    """Model that `fluency` asks."""
    mode: Literal["rationale_answer", "answer"] = "rationale_answer"
    """Rationale and answer, or the answer alone."""
    shots: int = 0
    """Solved training questions shown before each question, of its form of answer; built-in ones
    where none is solved.
    """
    form: Form = "auto"
    """`told`: prompts without demonstrations say the form of the answer; `plain`: they do not;
    `auto`: unless the model was trained here, as far as its folder shows. A served model of ours,
    or one that learned exported rows elsewhere, needs `plain`.
    """
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
    """Samples per question. Above 1 (with a temperature) also the accuracy of k of them: of any, of
    the majority, and with the reward `reward_model` of the best by it.
    """
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 0.9
    """Draw from the most likely tokens that hold this share."""
    max_new_tokens: int | None = None
    """Length limit of a reply, in tokens; none: that of the run that made the model, or 96."""
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

    DEFAULT_SPLIT: ClassVar = "test"

    def __post_init__(self) -> None:
        check_writing(self)
        at_least(self, 0, "shots")


@dataclass(frozen=True)
class CompareConfig:
    """Runs side by side."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN ..")]
    """Folders of evaluated runs: of `train`, `demo` or `evaluate`."""
    out: Path = Path("report.html")
    """Where the report goes."""
    pairs: tuple[str, ...] = ()
    """Differences to test, as "MaRio - SFT"; none: the last method against each of the others."""
    study: Path | None = None
    """Folder of a study (`study new`), whose results so far become a section of the report."""


def evaluate(config: EvaluateConfig, *, overwrite: bool = False) -> Results:
    """Write, score and summarise: `out/results.json` (also returned), `out/report.html`."""
    from rationalize.methods.inputs import inputs_of
    from rationalize.rewards.adapters import user_reward
    from rationalize.runs import Run, check_resumable

    settings = {"method": "evaluate", **settings_of(config)}
    # what can be known to be wrong is told before anything is loaded
    folder = _coalition(config)
    check_resumable(config.out, settings, overwrite=overwrite)
    rewards = [user_reward(n) for n in known_names(config.rewards, config) if ":" in n]
    questions, train = evaluated_questions(config)
    pinned = partial(inputs_of, settings, {"train": train, split_of(config): questions})
    if folder:
        name = config.name or Path(config.model).resolve().name
        hash = coalition_hash(folder)
        inputs = pinned(rewards=rewards)
        with Run.open(
            config.out, settings, base_hash=hash, inputs=inputs, overwrite=overwrite
        ) as run:
            write = partial(_chains, config, run, folder, name, questions)
            return _evaluate(config, run, name, write, questions, train)
    with (
        open_writer(config) as writer,
        Run.open(
            config.out, settings, base_hash=writer.weights_hash,
            inputs=pinned(writer.tokenizer, rewards), overwrite=overwrite,
        ) as run,
    ):  # fmt: skip
        name = config.name or writer.sampler.name
        write = partial(_written, config, writer, name, questions, train)
        return _evaluate(config, run, name, write, questions, train, untrained=writer.told)


def compare(config: CompareConfig, *, overwrite: bool = False) -> Results:
    """One report over several runs, with paired differences on the questions that they share;
    returns what the report shows.
    """
    from rationalize.evaluation.terminal import format_results
    from rationalize.report import write_report

    out, (results, attempts, questions) = compared(config, overwrite)
    out.claim()
    write_report(results, attempts, questions, config.out)
    out.sign()
    print(format_results(results), end="\n\n", flush=True)
    print(f"report: {config.out}")
    return results


def compared(
    config: CompareConfig, overwrite: bool
) -> tuple[OutputFile, tuple[Results, dict[str, list[Attempt]], dict[str, Question]]]:
    """The page's place, and what the page shows. Writes nothing; raises what is wrong."""
    from rationalize.evaluation.compare import compare_runs

    if not config.runs:
        raise UsageError("expected the folder of at least one run")
    pairs = [pair_named(text) for text in config.pairs] or None
    out = OutputFile(config.out, "compare", {"runs": config.runs}, overwrite)
    out.check()
    shown = compare_runs(config.runs, pairs=pairs)
    if config.study:
        from rationalize.commands.study import results_of

        shown[0]["study"] = results_of(config.study)
    return out, shown


def _evaluate(
    config: EvaluateConfig, run: Run, name: str, write: Callable[[], list[Attempt]],
    questions: Sequence[Question], train: Sequence[Question], *, untrained: bool = False,
) -> Results:  # fmt: skip
    """Write, score, summarise and report, whoever writes."""
    from rationalize.evaluation.baselines import MAJORITY, majority_attempts
    from rationalize.evaluation.results import merge_log, save_questions, summarise
    from rationalize.evaluation.tables import format_table
    from rationalize.evaluation.terminal import format_warnings
    from rationalize.report import write_report
    from rationalize.rewards import RewardSuite
    from rationalize.runs import Stage

    by_id = {q.id: q for q in questions}
    rewards = rewards_of(
        config.rewards, config, model=config.fluency_model,
        trust_remote_code=config.trust_remote_code,
    )  # fmt: skip
    suite = RewardSuite(rewards, cache=run.folder("scores"))
    # write and score, once: a second start reads the shard
    part = f"{split_of(config)}-{config.seed}"
    attempts = {
        name: Stage(run, "final").attempts(part, lambda: suite.score(write(), by_id)),
    }
    answered = {a.question_id for a in attempts[name]}
    skipped = [q.id for q in questions if q.id not in answered]
    if skipped:  # a server refused their prompts: all rows are of the same questions
        print(f"{len(skipped)} of {len(questions)} questions are left out: {', '.join(skipped)}")
        questions = [q for q in questions if q.id in answered]
    if train:
        majority = majority_attempts(train, questions, split=split_of(config))
        run.append(majority, f"floor-{split_of(config)}")
        attempts = {MAJORITY: majority, **attempts}

    # summarise, with the training log of the run that the model is from
    results = summarise(
        {method: {split_of(config): {a[0].seed: a}} for method, a in attempts.items()}, by_id,
        suite.trainable, suite.diagnostics, untrained=[name] if untrained else (),
        meta={
            "config": run.config, "model": config.model, "seeds": [config.seed],
            "environment": run.read_json("env.json"), **({"skipped": skipped} if skipped else {}),
        },
    )  # fmt: skip
    if run_of_model := trained_run(config):
        merge_log(results, run_of_model.metrics())
        trained = (run_of_model.read_json("results.json") or {}).get("trained") or []
        exported = (run_of_model.done("export") or {}).get("method")  # the method in `model/`
        exported = "COALITION" if _coalition(config) else exported
        results["trained"] = [
            {**row, "method": name} for row in trained if row["method"] == exported
        ]
    if config.n > 1:
        results["votes"] = _votes(config, attempts[name], by_id, name)
    if chains := run.read_json(_CHAINS):
        results["chains"] = chains
    run.write_json("results.json", results)
    save_questions(run, questions)
    write_report(results, attempts, by_id, run.path / "report.html")
    print(format_table(results, split_of(config)))
    for row in results.get("votes", []):
        interval = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        print(f"{row['rule']}, k = {row['k']}: {interval}")
    if told := format_warnings(results):
        print(told)
    print(f"report: {run.path / 'report.html'}")
    return results


def _votes(
    config: EvaluateConfig, attempts: Sequence[Attempt], by_id: Mapping[str, Question], name: str
) -> list[dict[str, Any]]:
    """Rows of the section `votes`: the accuracy of k samples, by rule."""
    from rationalize.evaluation.voting import scaling_curve

    score = "reward_model" if "reward_model" in config.rewards else None
    curve = scaling_curve(attempts, by_id, score=score, seed=config.seed)
    return [{"method": f"{name} on {split_of(config)}", **row} for row in curve]


def _written(
    config: EvaluateConfig, writer: Writer, name: str, questions: Sequence[Question],
    train: Sequence[Question],
) -> list[Attempt]:  # fmt: skip
    from rationalize.questions.demonstrations import training_demonstrations
    from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts

    demos = training_demonstrations(train, config.shots, answers=config.mode == "answer")
    return write_attempts(
        writer.sampler, questions, sampling_of(config),
        Provenance(split_of(config), config.seed, writer=name),
        PromptOptions(config.mode, writer.control, demos, told=writer.told),
        label=f"{name} on {split_of(config)}",
    )  # fmt: skip


def _coalition(config: EvaluateConfig) -> Path | None:
    """The coalition's folder where the model is one, else None.

    Raises `UsageError` for a setting that a coalition cannot follow.
    """
    if (folder := coalition_of(config)) is None:
        return None
    if config.shots:
        raise UsageError(f"{config.model} is a coalition, which is shown no solved questions")
    if config.n > 1:
        raise UsageError(
            f"{config.model} is a coalition, which answers a question once; leave --n out, or "
            "evaluate it under several seeds"
        )
    return folder


def _chains(
    config: EvaluateConfig, run: Run, folder: Path, name: str, questions: Sequence[Question]
) -> list[Attempt]:
    attempts, rows = chain_attempts(
        folder, questions, sampling_of(config), split=split_of(config), seed=config.seed, name=name,
        routing=config.routing, trust_remote_code=config.trust_remote_code,
    )  # fmt: skip
    run.write_json(_CHAINS, rows)
    return attempts


def pair_named(text: str) -> tuple[str, str]:
    """The two methods of a difference, `A - B`."""
    a, separator, b = text.partition(" - ")
    if not separator:
        raise UsageError(f'--pairs: found {text!r}, expected two methods as in "MaRio - SFT"')
    return a.strip(), b.strip()
