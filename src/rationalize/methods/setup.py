"""A run from the outside: questions in, scorers made or loaded, one evaluation, a report out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch

from rationalize.environment import environment
from rationalize.errors import UsageError
from rationalize.evaluation.compare import Methods, flat
from rationalize.evaluation.floor import FLOOR, majority_attempts
from rationalize.evaluation.results import Results, merge_log, save_questions, summarise
from rationalize.evaluation.tables import format_table, splits_of
from rationalize.methods.answer_scorer import AnswerScorerConfig, train_answer_scorer
from rationalize.methods.common import MethodConfig, Own, load_method_splits, rollouts, share
from rationalize.methods.verifier import VerifierConfig, train_verifier
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import has_fast_bfloat16
from rationalize.models.reward_model import RewardModel
from rationalize.models.scorers import AnswerScorer, load_verifier
from rationalize.records import Attempt, Question
from rationalize.report import write_report
from rationalize.rewards import DIAGNOSTICS, READS_ANSWERS, RewardSuite, load_rewards
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import write_attempts

READS_STATEMENTS = ("plausibility",)


@dataclass
class Setup(Generic[Own]):
    """What a method starts from."""

    config: Own
    run: Run
    splits: dict[str, list[Question]]
    suite: RewardSuite
    base: Policy

    @property
    def train(self) -> list[Question]:
        return self.splits["train"]

    @property
    def dev(self) -> list[Question]:
        return self.splits.get("dev", [])

    @property
    def final_splits(self) -> list[str]:
        """What is evaluated once, at the end: development questions where there is nothing else."""
        kept = [s for s, own in self.splits.items() if s not in ("train", "dev") and own]
        return kept or ["dev"]

    def load_policy(self) -> Policy:
        """The base model, fresh, with the weights that shall learn."""
        return load_policy(
            self.config.model,
            tuning=self.config.tuning,
            trust_remote_code=self.config.trust_remote_code,
        )

    def evaluate(
        self,
        policy: Policy,
        name: str,
        split: str,
        *,
        control: Mapping[str, int] | None = None,
        guidance: float = 0.0,
        mode: str = "rationale_answer",
        demos: Sequence[Question] = (),
        seed: int = 0,
        shard: str | None = None,
    ) -> list[Attempt]:
        """Attempts on a split, scored by every reward; stored, so that none is written twice."""
        questions = self.splits[split]

        def write() -> list[Attempt]:
            sampling = self.config.evaluation_sampling
            if mode == "answer":
                sampling = SamplingConfig(temperature=0.0, max_new_tokens=8)
            attempts = write_attempts(
                Sampler(policy, guidance=guidance), questions, sampling, split=split, seed=seed,
                writer=name, mode=mode, control=control, demos=demos, label=f"{name} on {split}",
            )  # fmt: skip
            return self.suite.score(attempts, {q.id: q for q in questions})

        return rollouts(self.run, shard or f"final-{_slug(name)}-{split}-{seed}", write)

    def conclude(
        self, policy: Policy, name: str, *, control: Mapping[str, int] | None = None,
        guidance: float = 0.0, mode: str = "rationale_answer",
        trained: Mapping[str, Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        """Score the evaluation splits once; write `results.json`, `report.html` and `model/`.

        `trained` says per stage which rewards the policy learned from, for the report's verdict on
        hacking.
        """
        seed = self.config.seed
        methods: Methods = {FLOOR: {}, name: {}}
        for split in self.final_splits:
            floor = majority_attempts(self.train, self.splits[split], split=split)
            own = self.evaluate(
                policy, name, split, control=control, guidance=guidance, mode=mode, seed=seed
            )
            methods[FLOOR][split], methods[name][split] = {0: floor}, {seed: own}
        write_results(self, methods, [(name, FLOOR)], trained=trained_rows(name, trained or {}))
        policy.export(self.run.folder("model"), bake=control)
        print(f"model: {self.run.path / 'model'}\nreport: {self.run.path / 'report.html'}")


def trained_rows(method: str, trained: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Rows of the section `trained`, from stage -> rewards.

    >>> trained_rows("MaRio", {"mario-0": ["diversity"], "mario-1": ["diversity"]})
    [{'method': 'MaRio', 'stages': ['mario-0', 'mario-1'], 'rewards': ['diversity']}]
    """
    of: dict[tuple[str, ...], list[str]] = {}
    for stage, rewards in trained.items():
        of.setdefault(tuple(rewards), []).append(stage)
    return [{"method": method, "stages": s, "rewards": list(r)} for r, s in of.items()]


def write_results(
    setup: Setup,
    methods: Methods,
    pairs: Sequence[tuple[str, str]],
    meta: Mapping[str, Any] | None = None,
    **sections: Sequence[Mapping[str, Any]],
) -> Results:
    """Summarise, store, print and draw; `sections` are rows for further sections of the page
    (`chains` of a coalition, `votes` among several attempts, `trained` rewards).
    """
    questions = {q.id: q for split in setup.splits.values() for q in split}
    results = summarise(
        methods, questions, setup.suite.trainable, setup.suite.diagnostics, pairs=pairs,
        meta={
            "model": setup.base.name, "config": setup.run.config, "command": command(),
            "hardware": hardware(), **(meta or {}),
        },
    )  # fmt: skip
    for split, seeds in methods.get(FLOOR, {}).items():
        setup.run.append(seeds[0], f"final-majority-{split}")
    merge_log(results, setup.run.metrics())
    results |= {name: list(rows) for name, rows in sections.items() if rows}
    setup.run.write_json("results.json", results)
    attempts = flat(methods)
    shown = {a.question_id: questions[a.question_id] for own in attempts.values() for a in own}
    save_questions(setup.run, shown.values())
    write_report(results, attempts, shown, setup.run.path / "report.html")
    print_tables(results)
    return results


def print_tables(results: Mapping[str, Any]) -> None:
    """Every split's means and differences."""
    for split in splits_of(results):
        print(format_table(results, split), end="\n\n")


@contextmanager
def open_method(
    config: Own, method: str, out: Path, rewards: Sequence[str] = ()
) -> Iterator[Setup[Own]]:
    """Everything a method needs, in one run directory."""
    splits = load_method_splits(config)
    base = load_policy(config.model, tuning="full", trust_remote_code=config.trust_remote_code)
    with Run.open(
        out, {"method": method, **dataclasses.asdict(config)}, base_hash=base.weights_hash
    ) as run:
        names = tuple(dict.fromkeys(("correctness", "diversity", *rewards)))
        suite = make_suite(names, config, run, base, splits["train"])
        yield Setup(config, run, splits, suite, base)


def make_suite(
    names: Sequence[str],
    config: MethodConfig,
    run: Run,
    base: Policy,
    train: Sequence[Question],
    scorer: AnswerScorerConfig | None = None,
    statements: VerifierConfig | None = None,
) -> RewardSuite:
    """Rewards and diagnostics; a scorer that is not given is trained in the run, cross-fitted.

    A diagnostic among `names` is a `UsageError`: what is trained on measures nothing any more.
    """
    answer_scorer = verifier = reward_model = None
    if set(names) & set(READS_ANSWERS):
        folder = Path(config.answer_scorer or run.path / "scorers" / "answer")
        if not config.answer_scorer:
            train_answer_scorer(share(scorer or AnswerScorerConfig(), config), folder, train)
        answer_scorer = AnswerScorer.load(folder)
    if set(names) & set(READS_STATEMENTS):
        place = config.verifier or run.path / "scorers" / "verifier"
        if not config.verifier:
            train_verifier(share(statements or VerifierConfig(), config), Path(place), train)
        verifier = load_verifier(place)
    if "reward_model" in names and config.reward_model:
        reward_model = RewardModel.load(config.reward_model)
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


def command() -> str:
    """How this process was started, without its folder."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def hardware() -> str:
    """Processor or accelerator, cores used and precision."""
    facts = environment()
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{facts['platform']}, {facts['threads']} threads"
    )
    fast = has_fast_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return f"{where}, {'bfloat16' if fast else 'float32'}, torch {torch.__version__}"


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in name)
