"""The rewards of a run and the scorers that they read with: loaded, or trained in the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rationalize.errors import UsageError
from rationalize.methods.base import RunConfig, ScorerFolders
from rationalize.methods.train_scorers.answer_scorer import AnswerScorerConfig, train_answer_scorer
from rationalize.methods.train_scorers.verifier import VerifierConfig, train_verifier
from rationalize.models.policy import Policy
from rationalize.models.reward_model import RewardModel
from rationalize.models.scorers import AnswerScorer, load_verifier
from rationalize.records import Question
from rationalize.rewards import DIAGNOSTICS, READS_ANSWERS, RewardSuite, load_rewards
from rationalize.runs import Run

READS_STATEMENTS = ("plausibility",)


@dataclass(frozen=True)
class Scoring:
    """The rewards that a run needs, and where the models are that they read with."""

    rewards: Sequence[str] = ()
    folders: ScorerFolders = ScorerFolders()
    answer_scorer: AnswerScorerConfig = AnswerScorerConfig()
    """How the answer scorer is trained, where no folder is given."""
    verifier: VerifierConfig = VerifierConfig()
    """How the verifier is trained, where no folder is given."""


def make_suite(
    scoring: Scoring, config: RunConfig, run: Run, base: Policy, train: Sequence[Question]
) -> RewardSuite:
    """Rewards and diagnostics; a scorer that is not given is trained in the run, cross-fitted.

    Raises `UsageError` for a diagnostic among the rewards: what is trained on measures nothing.
    """
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
    never = [r.name for r in rewards[: len(names)] if not r.trainable]
    if never:
        raise UsageError(
            f"{', '.join(never)}: a diagnostic, which is never trained on; name a reward "
            f"({', '.join(r.name for r in rewards if r.trainable)}), or read the diagnostic "
            "beside them with `rationalize evaluate --rewards`"
        )
    suite = RewardSuite(rewards, cache=str(run.path / "scores"))
    suite.check_questions(train)
    return suite
