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
from rationalize.evaluation.harness import Asked, write_harness_tasks
from rationalize.evaluation.results import Results, merge_log, save_questions, summarise
from rationalize.evaluation.tables import format_table, splits_of
from rationalize.files import write_text
from rationalize.methods.answer_scorer import AnswerScorerConfig, train_answer_scorer
from rationalize.methods.common import MethodConfig, Own, load_method_splits, rollouts, share
from rationalize.methods.verifier import VerifierConfig, train_verifier
from rationalize.models.cards import CARD, base_facts
from rationalize.models.folders import read_facts
from rationalize.models.policy import FULL_TUNING_LIMIT, Policy, load_policy
from rationalize.models.precision import has_fast_bfloat16
from rationalize.models.reward_model import RewardModel
from rationalize.models.scorers import AnswerScorer, load_verifier
from rationalize.records import Attempt, Question
from rationalize.report import write_report
from rationalize.report.card import CardFacts, model_card
from rationalize.rewards import DIAGNOSTICS, READS_ANSWERS, RewardSuite, load_rewards
from rationalize.runs import Run, slug
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts

READS_STATEMENTS = ("plausibility",)
ANSWER_SAMPLING = SamplingConfig(temperature=0.0, max_new_tokens=8)
"""How an answer without a rationale is written."""


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

    @property
    def tuning(self) -> str:
        """`full` or `lora`: which weights learn."""
        if self.config.tuning != "auto":
            return self.config.tuning
        size = sum(p.numel() for p in self.base.model.parameters())
        return "full" if size <= FULL_TUNING_LIMIT else "lora"

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
                sampling = ANSWER_SAMPLING
            attempts = write_attempts(
                Sampler(policy, guidance=guidance), questions, sampling,
                Provenance(split, seed, writer=name), PromptOptions(mode, control, demos),
                label=f"{name} on {split}",
            )  # fmt: skip
            return self.suite.score(attempts, {q.id: q for q in questions})

        return rollouts(self.run, shard or final_shard(name, split, seed), write)

    def judged(
        self, attempts: Sequence[Attempt], suite: RewardSuite, name: str, split: str, seed: int
    ) -> list[Attempt]:
        """Attempts of a row with the scores of a suite that was not there when they were written;
        stored, and what is read back from then on."""
        questions = {q.id: q for q in self.splits[split]}
        shard = f"judged-{slug(name)}-{split}-{seed}"
        return rollouts(self.run, shard, lambda: suite.score(attempts, questions))

    def export(
        self, policy: Policy, name: str, *, seed: int, control: Mapping[str, int] | None = None,
        guidance: float = 0.0, mode: str = "rationale_answer",
    ) -> None:  # fmt: skip
        """Write `model/`; `write_results` puts the card and the harness's tasks beside it."""
        policy.export(self.run.folder("model"), bake=control)
        self.run.finish("export", method=name, seed=seed, mode=mode, guidance=guidance)

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
        methods: Methods = {FLOOR: majority_row(self), name: {}}
        for split in self.final_splits:
            own = self.evaluate(
                policy, name, split, control=control, guidance=guidance, mode=mode, seed=seed
            )
            methods[name][split] = {seed: own}
        self.export(policy, name, seed=seed, control=control, guidance=guidance, mode=mode)
        write_results(self, methods, [(name, FLOOR)], trained=trained_rows(name, trained or {}))
        print(f"model: {self.run.path / 'model'}\nreport: {self.run.path / 'report.html'}")


def final_shard(name: str, split: str, seed: int) -> str:
    """The shard of a row's attempts on an evaluation split."""
    return f"final-{slug(name)}-{split}-{seed}"


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
    (`chains` of a coalition and what is known of itself, `votes` among several attempts, `trained`
    rewards).
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
    describe_model(setup, results, attempts)
    print_tables(results)
    return results


def describe_model(
    setup: Setup, results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]]
) -> None:
    """To an exported model: its card, and tasks that ask it the same questions elsewhere."""
    run, exported = setup.run, setup.run.done("export")
    if exported is None or run.access != "write":
        return
    folder, method, mode = run.path / "model", exported["method"], exported["mode"]
    facts = read_facts(folder)
    decoder_only = "decoder_prefix" not in facts
    baked = facts.get("baked") or {}
    asked = Asked(
        mode, templated=decoder_only and bool(facts["style"] == "chat" or baked),
        line_break=decoder_only, stop=setup.base.tokenizer.eos_token,
    )  # fmt: skip
    sampling = ANSWER_SAMPLING if mode == "answer" else setup.config.evaluation_sampling
    splits = {split: setup.splits[split] for split in setup.final_splits}
    write_harness_tasks(run.path, splits, asked, sampling)
    base = base_facts(setup.config.model)
    card = CardFacts(
        method=method, seed=exported["seed"], verb=run.config["method"], base=setup.base.name,
        base_id=base.hub_id, licence=base.licence, base_hash=setup.base.weights_hash,
        source=_source_name(setup.config.questions), train=len(setup.train),
        with_rationale=sum(bool(q.rationales) for q in setup.train), asked=asked, baked=baked,
        guidance=exported["guidance"], sampling=sampling,
        decoder_only=decoder_only, packages=run.read_json("env.json")["packages"],
    )  # fmt: skip
    own = [a for a in attempts[method] if a.seed == exported["seed"]]
    by_id = {q.id: q for questions in splits.values() for q in questions}
    write_text(folder / CARD, model_card(results, card, own, by_id))


def _source_name(questions: str) -> str:
    """A folder's or file's own name: where it lies is nobody's business."""
    return Path(questions).name if Path(questions).exists() else questions


def said_done(run: Run, stage: str) -> bool:
    """Whether this run is finished: then its tables are printed again."""
    if run.done(stage) is None:
        return False
    print_tables(run.read_json("results.json"))
    print(f"{run.path} is done: see {run.path / 'report.html'}, or choose another folder")
    return True


def majority_row(setup: Setup) -> dict[str, dict[int, list[Attempt]]]:
    """The floor's first row: the majority answer on every split that is evaluated."""
    return {
        split: {0: majority_attempts(setup.train, setup.splits[split], split=split)}
        for split in setup.final_splits
    }


def print_tables(results: Mapping[str, Any]) -> None:
    """Every split's means and differences."""
    for split in splits_of(results):
        print(format_table(results, split), end="\n\n")


@contextmanager
def open_method(
    config: Own, method: str, out: Path, rewards: Sequence[str] = (),
    splits: dict[str, list[Question]] | None = None,
) -> Iterator[Setup[Own]]:  # fmt: skip
    """Everything a method needs, in one run directory; `splits` where they are read already."""
    splits = splits or load_method_splits(config)
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
        reward_model = RewardModel.load(
            config.reward_model, trust_remote_code=config.trust_remote_code
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
