"""The rewards of a run and the scorers that they read with: loaded, or trained in the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationalize.errors import UsageError
from rationalize.methods.settings import RunConfig, ScorerFolders
from rationalize.methods.train_scorers.answer_scorer import AnswerScorerConfig, train_answer_scorer
from rationalize.methods.train_scorers.verifier import VerifierConfig, train_verifier
from rationalize.models.policy import Policy
from rationalize.models.reward_model import RewardModel, read_facts, reward_model_folder
from rationalize.models.scorers import AnswerScorer, load_verifier, scorer_facts
from rationalize.records import Question
from rationalize.rewards import DIAGNOSTICS, READS_ANSWERS, Reward, RewardSuite, load_rewards
from rationalize.rewards.known import known_rewards
from rationalize.runs import Run

READS_STATEMENTS = ("plausibility",)
ANSWER_SCORER, VERIFIER = "answer scorer", "verifier"
"""Kinds of scorers that a run can train for its rewards."""


@dataclass(frozen=True)
class Scoring:
    """The rewards that a run needs, and where the models are that they read with."""

    rewards: Sequence[str] = ()
    folders: ScorerFolders = ScorerFolders()
    answer_scorer: AnswerScorerConfig = AnswerScorerConfig()
    """How the answer scorer is trained, where no folder is given."""
    verifier: VerifierConfig = VerifierConfig()
    """How the verifier is trained, where no folder is given."""


def check_folders(folders: Any) -> None:
    """Raise `UserError` where a scorer is not in the folder that is named for it; loads none."""
    if folders.answer_scorer:
        scorer_facts(folders.answer_scorer, ANSWER_SCORER, "answer-scorer")
    if folders.verifier and folders.verifier != "vera":
        scorer_facts(folders.verifier, VERIFIER, "verifier")
    if folders.reward_model:
        read_facts(reward_model_folder(folders.reward_model))


def check_scoring(scoring: Scoring) -> list[Reward]:
    """The rewards that `make_suite` will load, over models that are not loaded yet.

    Raises what is wrong with their names and with the scorers' folders, before anything is made;
    `UsageError` for a diagnostic among the rewards: what is trained on measures nothing.
    """
    check_folders(scoring.folders)
    names = tuple(dict.fromkeys(scoring.rewards))
    # the others are trained in the run, and a judge is a reward of the user's own (docs/study.md)
    given = bool(scoring.folders.reward_model)
    known = known_rewards([*names, *DIAGNOSTICS], reward_model=given, judge=False)
    asked = known_rewards(names, reward_model=given, judge=False)
    if never := [reward.name for reward in asked if not reward.trainable]:
        trainable = ", ".join(reward.name for reward in asked if reward.trainable)
        raise UsageError(
            f"{', '.join(never)}: a diagnostic, which is never trained on; name a reward "
            f"({trainable}), or read the diagnostic beside them with `rationalize evaluate "
            "--rewards`"
        )
    return known


def trained_scorers(scoring: Scoring) -> list[str]:
    """The scorers that the run trains for its rewards."""
    names, folders = set(scoring.rewards), scoring.folders
    return [
        *([ANSWER_SCORER] if names & set(READS_ANSWERS) and not folders.answer_scorer else []),
        *([VERIFIER] if names & set(READS_STATEMENTS) and not folders.verifier else []),
    ]


def make_suite(
    scoring: Scoring, config: RunConfig, run: Run, base: Policy, train: Sequence[Question]
) -> RewardSuite:
    """Rewards and diagnostics; a scorer that is not given is trained in the run, cross-fitted.

    Raises what `check_scoring` raises.
    """
    check_scoring(scoring)
    names, folders = tuple(dict.fromkeys(scoring.rewards)), scoring.folders
    answer_scorer = verifier = reward_model = None
    if set(names) & set(READS_ANSWERS):
        folder = Path(folders.answer_scorer or run.path / "scorers" / "answer")
        if not folders.answer_scorer:
            train_answer_scorer(config, scoring.answer_scorer, folder, train)
        answer_scorer = AnswerScorer.load(folder)
    if set(names) & set(READS_STATEMENTS):
        place = folders.verifier or run.path / "scorers" / "verifier"
        if not folders.verifier:
            train_verifier(config, scoring.verifier, Path(place), train)
        verifier = load_verifier(place)
    if "reward_model" in names and folders.reward_model:
        reward_model = RewardModel.load(
            folders.reward_model, trust_remote_code=config.trust_remote_code
        )
    rewards = load_rewards(
        [*names, *DIAGNOSTICS], answer_scorer=answer_scorer, verifier=verifier,
        reward_model=reward_model, base=base,
    )  # fmt: skip
    suite = RewardSuite(rewards, cache=str(run.path / "scores"))
    suite.check_questions(train)
    return suite
