"""The main job, from questions to a report: the floor, SFT, and the methods that learn from it.

They are compared on questions kept aside. Every stage is stored in the run when it ends; a second
start goes on where the first was stopped, and says so when nothing is left. The larger experiments
are this file with other sizes, seeds and methods.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rationalize.errors import UsageError
from rationalize.evaluation.compare import Methods
from rationalize.evaluation.floor import BASE, FEW_SHOT, FLOOR
from rationalize.evaluation.preflight import format_preflight, preflight
from rationalize.methods.answer_scorer import AnswerScorerConfig
from rationalize.methods.common import (
    MethodConfig,
    load_method_splits,
    refuse_nested,
    restore_or,
    share,
)
from rationalize.methods.expert_iteration import ExpertIterationConfig, expert_iteration
from rationalize.methods.mario import MarioConfig, best_prefix, control_bins, mario, named_as_loaded
from rationalize.methods.setup import (
    Setup,
    majority_row,
    make_suite,
    said_done,
    trained_rows,
    write_results,
)
from rationalize.methods.sft import SftConfig, sft
from rationalize.methods.verifier import VerifierConfig
from rationalize.models.policy import Policy, load_policy
from rationalize.progress import say
from rationalize.questions.demonstrations import demonstrations, form_of
from rationalize.records import Question
from rationalize.rewards.check import check_rewards, format_table
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Provenance, write_attempts
from rationalize.training.loop import FitConfig

DIRECT, SFT = "direct fine-tune", "SFT"
"""Rows of every table, beside the floor's."""

LEARNERS = {
    "filt-acc": "FILT-ACC",
    "mario": "MaRio",
    "mario-additive": "MaRio ADDITIVE",
    "mario-additive-left": "MaRio ADDITIVE (left)",
    "product": "PRODUCT",
}
"""Methods that start from SFT, with the name that tables give them."""

ROLLOUTS = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=48)


@dataclass(frozen=True)
class DemoConfig(MethodConfig):
    """The demo: floor, SFT, MaRio, and a report."""

    questions: str = "builtin:train=200,dev=24,test=120,unseen=20"
    """`builtin[:train=200,..]`, a folder of train/dev/test files, a file, a named set, a hub id."""
    methods: tuple[str, ...] = ("mario",)
    """Learners beside SFT: filt-acc, mario, mario-additive, mario-additive-left, product."""
    seeds: tuple[int, ...] = (0,)
    """One SFT model and one run of each learner per seed."""
    shots: int = 2
    """Demonstrations of the few-shot floor."""
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=48)
    """How development and test rationales are written."""
    sft: SftConfig = SftConfig(
        epochs=1.25, evaluations=1, fit=FitConfig(learning_rate=3e-4, batch_size=8)
    )
    """SFT and the direct fine-tune.

    Model, questions, seed and scorers of this and of the next are the demo's own.
    """
    direct_epochs: float = 1.0
    """Passes of the direct fine-tune over the questions."""
    filt_acc: ExpertIterationConfig = ExpertIterationConfig(
        steps=36,
        sample_interval=12,
        rollouts=48,
        fit=FitConfig(learning_rate=1e-4),
        sampling=ROLLOUTS,
    )
    """FILT-ACC."""
    mario: MarioConfig = MarioConfig(
        bins=3,
        steps=36,
        sample_interval=12,
        rollouts=48,
        obedience_questions=8,
        fit=FitConfig(learning_rate=1e-4, control_factor=20.0),
        sampling=ROLLOUTS,
    )
    """MaRio and its variants."""
    scorer: AnswerScorerConfig = AnswerScorerConfig(
        epochs=1.25, answer_share=0.25, fit=FitConfig(learning_rate=3e-4, batch_size=8)
    )
    """The answer scorer that consistency reads."""
    statements: VerifierConfig = VerifierConfig(epochs=0.6, choice_statements=0.25)
    """The verifier that plausibility reads."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {},
        "large": {
            "questions": "builtin:train=1000,dev=150,test=400,unseen=200",
            "methods": ["filt-acc", "mario"],
            "seeds": [0, 1, 2],
            "filt_acc": {"steps": 600, "sample_interval": 200, "rollouts": 0},
            "mario": {
                "bins": 5,
                "steps": 600,
                "sample_interval": 200,
                "rollouts": 0,
                "obedience_questions": 0,
            },
        },
    }

    def __post_init__(self) -> None:
        refuse_nested(self, "sft", "filt_acc", "mario", "scorer", "statements")


def run_demo(config: DemoConfig, out: Path) -> None:
    """Write `results.json` and `report.html` in `out`, and print the table."""
    unknown = set(config.methods) - set(LEARNERS)
    if unknown:
        raise UsageError(
            f"unknown methods {sorted(unknown)}; expected some of {', '.join(LEARNERS)}"
        )
    started = time.monotonic()
    base = load_policy(config.model, tuning="full", trust_remote_code=config.trust_remote_code)
    with Run.open(
        out, {"method": "demo", **dataclasses.asdict(config)}, base_hash=base.weights_hash
    ) as run:
        if said_done(run, "demo"):
            return
        splits = load_method_splits(config)
        names = tuple(dict.fromkeys(("correctness", *config.mario.rewards)))
        suite = make_suite(
            names, config, run, base, splits["train"], config.scorer, config.statements
        )
        setup = Setup(config, run, splits, suite, base)
        sizes = ", ".join(f"{len(questions)} {split}" for split, questions in splits.items())
        say(f"{sizes} questions; rewards {', '.join(config.mario.rewards)}")
        _check_rewards(setup)
        methods = floor_of(setup, base)
        for seed in config.seeds:
            _learn(setup, methods, seed)
        learners = [LEARNERS[m] for m in config.methods]
        pairs = (
            [(n, SFT) for n in learners] + [(n, learners[0]) for n in learners[1:]] + [(SFT, BASE)]
        )
        seconds = time.monotonic() - started  # of this start
        meta = {"seconds": seconds, "seeds": list(config.seeds)}
        write_results(setup, methods, pairs, meta, trained=_trained(setup))
        run.finish("demo", seconds=seconds)
        say(f"report: {out / 'report.html'}")


def floor_of(setup: Setup, base: Policy) -> Methods:
    """Majority answer, the untouched base model, and the direct fine-tune."""
    methods: Methods = {FLOOR: majority_row(setup), BASE: {}, FEW_SHOT: {}, DIRECT: {}}
    demos = _demos(setup.train, setup.config.shots)
    direct = setup.load_policy()
    own = share(setup.config.sft, setup.config, epochs=setup.config.direct_epochs, evaluations=1)

    def learn() -> None:
        sft(direct, setup.train, setup.dev, own, setup.run, "direct", mode="answer")

    restore_or(setup.run, "direct", direct, learn)
    for split in setup.final_splits:
        methods[BASE][split] = {0: setup.evaluate(base, BASE, split)}
        methods[FEW_SHOT][split] = {0: setup.evaluate(base, FEW_SHOT, split, demos=demos)}
        seed = setup.config.seed
        answers = setup.evaluate(direct, DIRECT, split, mode="answer", seed=seed)
        methods[DIRECT][split] = {seed: answers}
    return methods


def _learn(setup: Setup[DemoConfig], methods: Methods, seed: int) -> None:
    """SFT with this seed, then every learner from it, each evaluated once."""
    config = setup.config
    policy = taught_by_sft(setup, seed)
    for split in setup.final_splits:
        own = setup.evaluate(policy, SFT, split, seed=seed)
        methods.setdefault(SFT, {}).setdefault(split, {})[seed] = own
    _preflight(setup, policy, seed)
    for method in config.methods:
        settings = _settings(setup, method, seed)
        policy = _taught(setup, method, settings, seed)
        control = best_prefix(settings) if isinstance(settings, MarioConfig) else None
        guidance = settings.guidance if isinstance(settings, MarioConfig) else 0.0
        name = LEARNERS[method]
        for split in setup.final_splits:
            own = setup.evaluate(policy, name, split, control=control, guidance=guidance, seed=seed)
            methods.setdefault(name, {}).setdefault(split, {})[seed] = own
        if method == config.methods[-1] and seed == config.seeds[-1]:
            setup.export(policy, name, seed=seed, control=control, guidance=guidance)


def taught_by_sft(setup: Setup, seed: int) -> Policy:
    """SFT with this seed; its config is `setup.config.sft`."""
    policy, stage = setup.load_policy(), f"sft-{seed}"
    own = share(setup.config.sft, setup.config, seed=seed)

    def learn() -> None:
        sft(policy, setup.train, setup.dev, own, setup.run, stage)

    restore_or(setup.run, stage, policy, learn)
    return policy


def _taught(
    setup: Setup[DemoConfig], method: str, own: ExpertIterationConfig | MarioConfig, seed: int
) -> Policy:
    """What a method makes of the SFT model with this seed."""
    policy, stage = setup.load_policy(), f"{method}-{seed}"
    policy.load_weights(setup.run.folder("policies", f"sft-{seed}"))

    def learn() -> None:
        if isinstance(own, MarioConfig):
            mario(policy, setup.suite, setup.train, setup.dev, own, setup.run, stage)
        else:
            expert_iteration(policy, setup.suite, setup.train, setup.dev, own, setup.run, stage)

    restore_or(setup.run, stage, policy, learn)
    return policy


def _settings(
    setup: Setup[DemoConfig], method: str, seed: int
) -> ExpertIterationConfig | MarioConfig:
    config = setup.config
    if method == "filt-acc":
        return share(config.filt_acc, config, seed=seed)
    variant = {"mario": "classic", "product": "product"}.get(method, "additive")
    side = "left" if method.endswith("left") else config.mario.side
    own = share(config.mario, config, seed=seed, variant=variant, side=side)
    return named_as_loaded(own, setup.suite)


def _trained(setup: Setup[DemoConfig]) -> list[dict[str, Any]]:
    """Which rewards each method learned from, by stage."""
    found = []
    for method in setup.config.methods:
        of: dict[str, tuple[str, ...]] = {}
        for seed in setup.config.seeds:
            own = _settings(setup, method, seed)
            names = own.rewards if isinstance(own, MarioConfig) else tuple(own.filters)
            of[f"{method}-{seed}"] = names
        found += trained_rows(LEARNERS[method], of)
    return found


def _demos(train: Sequence[Question], shots: int) -> list[Question]:
    """The first solved questions, one of each kind as far as there are kinds; where none is solved,
    the built-in demonstrations of the commonest form of answer.
    """
    solved = [q for q in train if q.rationales]
    if not solved:
        form = Counter(form_of(q) for q in train).most_common(1)[0][0]
        return demonstrations("builtin", train, shots, train)[form]
    by_kind: dict[str | None, list[Question]] = {}
    for q in solved:
        by_kind.setdefault(q.kind, []).append(q)
    firsts = [own[i] for i in range(shots) for own in by_kind.values() if i < len(own)]
    return firsts[:shots]


def _check_rewards(setup: Setup[DemoConfig]) -> None:
    """Self-tests of every reward on development questions, before any of them enters a headline."""
    run = setup.run
    if run.read_json("check_rewards.json") is None:
        solved = [q for q in setup.dev if q.rationales] or [q for q in setup.train if q.rationales]
        questions = solved[:8]
        rows = check_rewards(setup.suite.rewards, questions, [q.rationales[0] for q in questions])
        run.write_json("check_rewards.json", rows)
        (run.path / "check_rewards.txt").write_text(format_table(rows))
    print((run.path / "check_rewards.txt").read_text())


def _preflight(setup: Setup[DemoConfig], policy: Policy, seed: int) -> None:
    """Spread of each reward over two sampled attempts of 32 training questions."""
    run, config = setup.run, setup.config
    name = f"preflight-{seed}.json"
    if run.read_json(name) is None:
        questions = setup.train[:32]
        sampling = dataclasses.replace(config.mario.sampling, n=2)
        attempts = write_attempts(
            Sampler(policy), questions, sampling, Provenance("train", seed, writer="preflight"),
            label="preflight",
        )  # fmt: skip
        scored = setup.suite.score(attempts, {q.id: q for q in questions})
        bins = control_bins(config.mario, setup.suite)
        run.write_json(name, preflight(scored, setup.suite, bins))
    say(format_preflight(run.read_json(name)))
