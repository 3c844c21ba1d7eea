"""From settings to a run: questions, scorers, rewards and base model; then a method, to its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rationalize.config import to_dict
from rationalize.config.compose import compose, split
from rationalize.errors import UsageError
from rationalize.methods import Method, load, method_named
from rationalize.methods.base import (
    Asked,
    Experiment,
    Learned,
    RunConfig,
    ScorerFolders,
)
from rationalize.methods.sft import SftStart, start_from_sft
from rationalize.methods.train_scorers.answer_scorer import AnswerScorerConfig, train_answer_scorer
from rationalize.methods.train_scorers.verifier import VerifierConfig, train_verifier
from rationalize.models.policy import Policy
from rationalize.models.reward_model import RewardModel
from rationalize.models.scorers import AnswerScorer, load_verifier
from rationalize.records import Question
from rationalize.rewards import DIAGNOSTICS, READS_ANSWERS, RewardSuite, load_rewards
from rationalize.runs import Run
from rationalize.sampling.local import SamplingConfig

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


def settings_of(method: Method) -> type:
    """The flat configuration of `train METHOD`: the method's own, and the run's."""
    config = load(method.config)
    parts = [config]
    if method.start == "sft":
        parts.append(SftStart)
    if method.scorers:
        parts.append(ScorerFolders)
    return compose(config.__name__, [*parts, RunConfig], getattr(config, "RUN", None))


def train(method: str, out: Path | str, settings: Any = None, **values: Any) -> None:
    """Run a method of the table, or `module:function`, in the folder `out`; a second call resumes.

    `settings` is what `settings_of(method)` makes; or its values are named one by one:

        train("mario", "runs/mine", rewards=("correctness", "my_rewards:brevity"), bins=3, seed=1)
    """
    found = method_named(method)
    settings = replace(settings, **values) if settings else settings_of(found)(**values)
    parts = {type(part): part for part in split(settings)}
    config, run_config = next(iter(parts.values())), parts[RunConfig]
    scoring = Scoring(rewards_of(config), parts.get(ScorerFolders, ScorerFolders()))
    scoring = getattr(config, "scoring", lambda scoring: scoring)(scoring)
    stored = {"method": method, **to_dict(settings)}
    with open_experiment(run_config, out, stored, scoring, writes=tokens_of(config)) as exp:
        policy = exp.load_policy()
        if found.start == "sft":
            exp, policy = start_from_sft(exp, policy, parts[SftStart].sft)
        learned = learn(exp, policy, config, exp.stage(method_stage(method)), found)
        load(found.conclude)(exp, learned, learned.label or found.label)


def learn(
    exp: Experiment, policy: Policy, config: Any, stage: Any, method: Method
) -> Learned:
    """Call the method, and complete what it leaves by what the table says of it."""
    made = load(method.learn)(exp, policy, config, stage)
    learned = made if isinstance(made, Learned) else Learned(made, stage.folder)
    if not learned.trained:
        names = [exp.suite[name].name for name in method.learned_from(config)]
        learned = replace(learned, trained={stage.name: tuple(names)} if names else {})
    if method.asked and learned.asked == Asked():
        learned = replace(learned, asked=load(method.asked)(exp, config))
    return learned


def method_stage(method: str) -> str:
    """The stage of a method in its own run; of `my_file:my_method` the function's name."""
    return method.rpartition(":")[2]


def rewards_of(config: Any) -> tuple[str, ...]:
    """Names of the rewards that a method's `rewards` and `filters` hold."""
    return (*getattr(config, "rewards", ()), *getattr(config, "filters", ()))


def tokens_of(config: Any) -> int:
    """The longest reply that a method writes, as its `max_new_tokens` or `sampling` says."""
    if hasattr(config, "max_new_tokens"):
        return config.max_new_tokens
    return config.sampling.max_new_tokens if hasattr(config, "sampling") else 64


@contextmanager
def open_experiment(
    config: RunConfig, out: Path | str, stored: Mapping[str, Any], scoring: Scoring, *,
    writes: int = 64, splits: Mapping[str, list[Question]] | None = None,
) -> Iterator[Experiment]:  # fmt: skip
    """Everything that a method needs, in one run folder.

    `stored` is the whole configuration, for `config.yaml`; `writes` the longest reply that is
    written, in tokens; `splits` the questions, where they are read already.
    """
    splits = splits or config.load_splits()
    base = config.load_policy(tuning="full")
    evaluation = SamplingConfig(
        temperature=0.0, max_new_tokens=config.evaluation_tokens or writes
    )
    with Run.open(Path(out), stored, base_hash=base.weights_hash) as run:
        suite = make_suite(scoring, config, run, base, splits["train"])
        yield Experiment(run, config, splits, suite, base, evaluation)


def make_suite(
    scoring: Scoring, config: RunConfig, run: Run, base: Policy, train: Sequence[Question]
) -> RewardSuite:
    """Rewards and diagnostics; a scorer that is not given is trained in the run, cross-fitted.

    Raises `UsageError` for a diagnostic among the rewards: what is trained on measures nothing.
    """
    names = tuple(dict.fromkeys(("correctness", "diversity", *scoring.rewards)))
    folders = scoring.folders
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
    return RewardSuite(rewards, cache=str(run.path / "scores"))
