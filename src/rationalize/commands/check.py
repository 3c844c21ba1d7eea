"""`check-rewards`: rewards put to the test. Trains nothing.

Either good rationales are spoiled in simple ways, and rewards must fall; or rewards must rank
rationales as people judged them, or by whether they led other models to the right answer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from rationalize.commands.output_file import OutputFile
from rationalize.commands.resolve import ScorerFolders, known_names, rewards_of, split_commas
from rationalize.config import nearest, to_dict
from rationalize.config.checks import LARGEST_SEED, at_least, between
from rationalize.errors import CheckFailed, UsageError, UserError
from rationalize.records import Question

if TYPE_CHECKING:
    from rationalize.evaluation.leaderboard import ReferenceSet
    from rationalize.questions.judged import JudgedQuestion


@dataclass(frozen=True)
class CheckRewardsConfig(ScorerFolders):
    """Rewards put to the test: by attacks, or by people's votes and other models' verdicts."""

    rewards: Annotated[tuple[str, ...], Positional, arg(metavar="[REWARD ..]")] = ()
    """Rewards by name, or `module:function`; none: all whose scorer is given or that need none."""
    people: tuple[str, ...] = ()
    """Files or folders of questions with `judged_rationales`: how well do rewards rank what people
    accept? Replaces the attacks.
    """
    references: tuple[str, ...] = ()
    """Folders of test questions with `reference_rationales`: do rewards rank right above wrong?
    Replaces the attacks.
    """
    models: tuple[str, ...] = ()
    """Of the reference rationales, those of these models; none: all."""
    prefer: tuple[str, str] = ("gpt3", "llama-7b")
    """Of the reference rationales, the model that should write better, and the other."""
    questions: str = "builtin"
    """Questions with rationales, which are spoiled in simple ways."""
    split: str | None = None
    """Split of `questions` (none: dev), or of the folders of `people` (none: test)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for questions of another shape: our field -> theirs."""
    limit: int | None = None
    """How many questions; none: 40 to attack, all of each set of `people` and `references`."""
    model: str | None = None
    """Model that `fluency` asks; none: the default, and `fluency` is attacked only when named."""
    seed: int = 0
    """Seed of the attacks' shuffled words and intervals; agreement's draws are fixed."""
    strict: bool = False
    """End with exit status 1 where a reward is suspicious: for continuous integration."""
    out: Path | None = None
    """File for the table, as JSON; with `people` or `references` the folder of the run (none:
    runs/check-rewards), which a second start resumes.
    """

    def __post_init__(self) -> None:
        at_least(self, 1, "limit")
        between(self, 0, LARGEST_SEED, "seed")


def settings_of(config: CheckRewardsConfig) -> dict[str, Any]:
    """The settings that results depend on."""
    return {key: value for key, value in to_dict(config).items() if key not in ("strict", "out")}


def check_rewards(config: CheckRewardsConfig, *, overwrite: bool = False) -> Any:
    """Attack the rewards, or compare them with people and verdicts; print and return the tables."""
    known_names(config.rewards, config)
    if config.people or config.references:
        return _agreement(config, overwrite)
    return _attack(config, overwrite)


def output_of(config: CheckRewardsConfig, overwrite: bool) -> OutputFile | None:
    """The attacks' file, checked; None where none is asked for."""
    if config.out is None:
        return None
    out = OutputFile(config.out, "check-rewards", settings_of(config), overwrite)
    out.check()
    return out


def attacked(config: CheckRewardsConfig) -> list[tuple[Question, str]]:
    """The questions with the good rationales to spoil; raises where these are too few."""
    from rationalize.questions import load_questions

    split = config.split or "dev"
    questions = load_questions(config.questions, split, columns=config.columns or None)
    limit = 40 if config.limit is None else config.limit
    pairs = [(q, r) for q in questions if (r := _good_rationale(q)) is not None][:limit]
    if len(pairs) < 2:
        raise UserError(
            f"{config.questions}: found {len(pairs)} {split} questions with a rationale "
            "that led to the right answer; expected at least two (30 say more). Name other "
            "questions or another split"
        )
    return pairs


def _attack(config: CheckRewardsConfig, overwrite: bool) -> list[dict[str, Any]]:
    """Spoil good rationales and print how each reward changes."""
    from rationalize.rewards import check

    out = output_of(config, overwrite)
    pairs = attacked(config)
    asked, good = [q for q, _ in pairs], [r for _, r in pairs]
    names = config.rewards or _testable(config)
    rewards = rewards_of(names, config, model=config.model or "default")
    rows = check.check_rewards(rewards, asked, good, seed=config.seed)
    if out:
        from rationalize.files import plain, write_text

        out.claim()
        write_text(out.path, json.dumps(plain(rows), indent=1) + "\n")
        out.sign()
    print(check.format_table(rows))
    suspicious = sorted({row.reward for row in rows if not row.ok})
    print(f"suspicious: {', '.join(suspicious) or 'none'} ({len(pairs)} questions)")
    if unmoved := check.unmoved(rows):
        print(
            f"no attack changed a score: {', '.join(unmoved)}. A reward that does not read the "
            "rationale, or that scores all of these alike, passes without being tested; "
            "--questions names other rationales"
        )
    result = [asdict(row) for row in rows]
    if config.strict and suspicious:
        failed = [f"{row.reward} under {row.attack}" for row in rows if not row.ok]
        raise CheckFailed(
            f"{len(failed)} of {len(rows)} checks failed: {', '.join(failed)}; expected every "
            "reward to fall or rise as the column `expected` says (--strict)",
            result,
        )
    return result


def agreement_place(config: CheckRewardsConfig) -> tuple[Path, dict[str, Any]]:
    """The folder of the run that compares with people, and its settings."""
    settings = {"method": "check-rewards", **settings_of(config)}
    return config.out or Path("runs/check-rewards"), settings


def judged_and_references(
    config: CheckRewardsConfig,
) -> tuple[dict[str, list[JudgedQuestion]], list[ReferenceSet]]:
    """What people judged, and what other models wrote; raises what is wrong with it."""
    from rationalize.commands.human_agreement import read_people, read_references

    if config.questions != "builtin" or config.columns:
        raise UsageError(
            "--questions and --columns name what is attacked, --people and --references what is "
            "compared with; expected one or the other. Run the command twice"
        )
    if config.strict:
        raise UsageError("--strict is about attacks; agreement with people has no pass or fail")
    people = read_people(config.people, config.split or "test", config.limit)
    references = read_references(config.references, config.models, config.limit)
    writers = {model for one in references for model in one.attempts}
    if references and config.prefer != CheckRewardsConfig.prefer:
        for model in config.prefer:
            if model not in writers:
                raise UsageError(f"--prefer: no rationale by {model!r}{nearest(model, writers)}")
    return people, references


def _agreement(config: CheckRewardsConfig, overwrite: bool) -> dict[str, Any]:
    from rationalize.commands.human_agreement import measure_agreement, show_agreement
    from rationalize.evaluation.human_agreement import BASELINE_REWARDS
    from rationalize.rewards import RewardSuite
    from rationalize.runs import Run

    people, references = judged_and_references(config)
    names = [*split_commas(config.rewards or _testable(config)), *BASELINE_REWARDS]
    rewards = rewards_of(list(dict.fromkeys(names)), config, model=config.model or "default")
    out, settings = agreement_place(config)
    with Run.open(out, settings, overwrite=overwrite) as run:
        suite = RewardSuite(rewards, cache=run.folder("scores"))
        results = measure_agreement(run, suite, people, references, config.prefer)
        print(show_agreement(results))
    print(f"report: {out / 'report.html'}")
    return results


def _good_rationale(question: Question) -> str | None:
    """The first rationale that led its teacher to the right answer and is not marked as poor."""
    quality = question.extra.get("rationale_quality") or ["good"] * len(question.rationales)
    answers = question.extra.get("teacher_answers") or [question.answer] * len(question.rationales)
    for rationale, grade, answer in zip(question.rationales, quality, answers):
        if grade == "good" and answer == question.answer and rationale.strip():
            return rationale
    return None


def _testable(config: CheckRewardsConfig) -> list[str]:
    """The rewards whose models are given."""
    from rationalize.rewards import READS_ANSWERS, REWARDS

    needs = {
        **dict.fromkeys(READS_ANSWERS, config.answer_scorer),
        "plausibility": config.verifier,
        "reward_model": config.reward_model,
        "judge": config.judge_model,
        "fluency": config.model,
    }
    return [name for name in REWARDS if needs.get(name, True)]
