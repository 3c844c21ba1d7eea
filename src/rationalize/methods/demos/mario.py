"""MaRio's demo: baselines, SFT, and what starts from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rationalize.config.checks import at_least, check_seeds
from rationalize.evaluation.baselines import BASE
from rationalize.evaluation.preflight import format_preflight, preflight
from rationalize.files import write_text
from rationalize.methods.base import Experiment, Learned
from rationalize.methods.experiment import (
    SFT,
    Row,
    baselines,
    best_left,
    refuse_unknown_methods,
    run_rows,
)
from rationalize.methods.filt_acc import FiltAccConfig
from rationalize.methods.grpo import GdpoConfig, GrpoConfig
from rationalize.methods.mario import control_bins, named_as_loaded
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.outcome import write_results
from rationalize.methods.scoring import Scoring
from rationalize.methods.settings import ScorerFolders
from rationalize.methods.sft import SftConfig, StartConfig, taught
from rationalize.methods.train_scorers.answer_scorer import AnswerScorerConfig
from rationalize.methods.train_scorers.verifier import VerifierConfig
from rationalize.processes import by_first
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.rewards.check import FEWEST_TESTED, CheckRow, check_rewards, format_table
from rationalize.runs import slug
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.teacher import solved
from rationalize.text import printable
from rationalize.training.loop import ControlFitConfig, FitConfig

SHORT = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=48)
GROUPS: dict[str, Any] = {
    "updates": 18, "prompts": 4, "evaluate_every": 6,
    "fit": FitConfig(learning_rate=2e-5, batch_size=16, schedule="constant"),
    "sampling": SamplingConfig(temperature=1.0, max_new_tokens=48, n=4),
}  # fmt: skip
"""GRPO and GDPO: as many rows learned as in MaRio's 36 steps of 8."""

VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mario": ("MaRio", {"variant": "classic"}),
    "mario-additive": ("MaRio ADDITIVE", {"variant": "additive"}),
    "mario-additive-left": ("MaRio ADDITIVE (left)", {"variant": "additive-left"}),
    "product": ("PRODUCT", {"variant": "product"}),
    "mario-uncapped": (
        "MaRio, uncapped draws, random tokens", {"over_draw": 0.0, "control_init": "statistics"}
    ),
    "mario-within": ("MaRio, bins within a question", {"bins_within": "question"}),
    "mario-contrast": ("MaRio, contrast", {"contrast": 1.0}),
    "mario-random": ("MaRio, tokens that mean nothing", {"bins_within": "nothing"}),
}  # fmt: skip
"""Method of MaRio's demo -> its row, and what it changes of MaRio's settings."""

SELF_TESTED, PREFLIGHT = 8, 32
"""Questions of the rewards' self-tests, and of the look at their spread before MaRio."""

REVERSED = "mario-reversed"
"""MaRio with its rewards' tokens in the opposite order."""

SFT_MORE = "sft-more"
"""SFT on as many further rows as MaRio learns: what the steps alone are worth."""

OTHERS: Mapping[str, tuple[str, str]] = {
    "filt-acc": ("FILT-ACC", "filt_acc"),
    "grpo": ("GRPO", "grpo"),
    "gdpo": ("GDPO", "gdpo"),
}
"""Method beside MaRio -> its row, and its field of the demo's configuration."""


@dataclass(frozen=True)
class MarioDemoConfig:
    """MaRio's demo: baselines, SFT, and what starts from it."""

    methods: tuple[str, ...] = ("mario",)
    """Learners beside SFT: sft-more (SFT goes on for as many rows), filt-acc, grpo, gdpo, mario,
    mario-additive, mario-additive-left, mario-uncapped, mario-within, mario-contrast, mario-random
    (tokens that mean nothing), mario-reversed (tokens in the opposite order), product; with one
    reward alone, only-REWARD, or all but one, without-REWARD.
    """
    seeds: tuple[int, ...] = (0,)
    """One SFT model and one run of each learner per seed."""
    shots: int = 2
    """Demonstrations of the few-shot baseline."""
    direct: StartConfig = StartConfig(epochs=1.0, fit=FitConfig(learning_rate=3e-4, batch_size=8))
    """The direct fine-tune."""
    sft: SftConfig = SftConfig(
        epochs=1.25, evaluations=1, fit=FitConfig(learning_rate=3e-4, batch_size=8)
    )
    """SFT."""
    filt_acc: FiltAccConfig = FiltAccConfig(
        steps=36, sample_interval=12, prompts=48, fit=FitConfig(learning_rate=1e-4), sampling=SHORT
    )
    """FILT-ACC."""
    mario: MarioConfig = MarioConfig(
        bins=3, steps=36, sample_interval=12, prompts=48, token_questions=24,
        fit=ControlFitConfig(learning_rate=1e-4, control_factor=20.0), sampling=SHORT,
    )  # fmt: skip
    """MaRio; its other variants differ in what their name says."""
    grpo: GrpoConfig = GrpoConfig(**GROUPS)
    """GRPO."""
    gdpo: GdpoConfig = GdpoConfig(**GROUPS)
    """GDPO."""
    train_answer_scorer: AnswerScorerConfig = AnswerScorerConfig(
        epochs=1.25, answer_share=0.25, fit=FitConfig(learning_rate=3e-4, batch_size=8)
    )
    """How the answer scorer that consistency reads is trained."""
    train_verifier: VerifierConfig = VerifierConfig(epochs=0.6, choice_statements=0.25)
    """How the verifier that plausibility reads is trained."""

    RUN: ClassVar[dict[str, Any]] = {
        "questions": "builtin:train=200,dev=24,test=120,unseen=20",
        "evaluation_tokens": 48,
    }
    """The run's settings, where the demo has its own."""
    LORA: ClassVar[dict[str, Any]] = {
        "filt_acc": {"fit": {"learning_rate": 2e-4}},
        "mario": {"fit": {"learning_rate": 2e-4, "control_factor": 10.0}},
        "grpo": {"fit": {"learning_rate": 1e-4}},
        "gdpo": {"fit": {"learning_rate": 1e-4}},
    }
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {},
        "large": {
            "questions": "builtin:train=1000,dev=150,test=400,unseen=200",
            "methods": ["filt-acc", "mario"],
            "seeds": [0, 1, 2],
            "filt_acc": {"steps": 600, "sample_interval": 200, "prompts": 0},
            "mario": {
                "bins": 5, "steps": 600, "sample_interval": 200, "prompts": 0,
                "token_questions": 60,
            },
            "grpo": {"updates": 300, "evaluate_every": 100},
            "gdpo": {"updates": 300, "evaluate_every": 100},
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        at_least(self, 1, "shots")
        one = [f"{how}-{name}" for how in ("only", "without") for name in self.mario.rewards]
        refuse_unknown_methods(self.methods, (SFT_MORE, REVERSED, *OTHERS, *VARIANTS, *one))

    def scoring(self, folders: ScorerFolders, train: Sequence[Question]) -> Scoring:
        """MaRio's rewards, with the scorers that are trained for them."""
        learned = (m for m in ("grpo", "gdpo") if m in self.methods)
        others = (name for m in learned for name in getattr(self, m).rewards)
        rewards = ("correctness", *self.mario.rewards, *others)
        return Scoring(rewards, folders, self.train_answer_scorer, self.train_verifier)


def mario_demo(exp: Experiment, config: MarioDemoConfig, started: float) -> None:
    """SFT with every seed, and every learner from it."""
    sizes = ", ".join(f"{len(questions)} {split}" for split, questions in exp.splits.items())
    say(f"{sizes} questions; rewards {', '.join(config.mario.rewards)}")
    _check_rewards(exp)
    rows = rows_of(config, len(taught(exp.train)))

    said: list[str] = []

    def after(seeded: Experiment, row: Row, learned: Learned) -> None:
        if row.label == SFT:
            _preflight(seeded, config.mario, learned)
        if isinstance(row.config, MarioConfig) and seeded.seed == config.seeds[-1]:
            said.extend(_under_both_tokens(seeded, row, learned))

    table = baselines(exp, config.direct, config.shots)
    run_rows(exp, rows, config.seeds, table, after)
    best = best_left(exp, table, [row.label for row in rows], config.seeds[-1])
    learners = [row.label for row in rows[1:] if row.label in table.methods]
    pairs = [(name, SFT) for name in learners] + [(name, learners[0]) for name in learners[1:]]
    meta = {"seconds": time.monotonic() - started, "seeds": list(config.seeds)}
    pairs.append((SFT, BASE))
    write_results(exp, table.methods, pairs, meta, model=best, trained=table.trained())
    for line in said:
        say(printable(line))
    say(f"report: {exp.run.path / 'report.html'}")


def rows_of(config: MarioDemoConfig, teacher_rows: int) -> list[Row]:
    """SFT, and the learners that start from it."""
    rows = [Row(SFT, "sft", config.sft, "sft-{seed}")]
    return rows + [_row(name, config, teacher_rows) for name in config.methods]


def _row(name: str, config: MarioDemoConfig, teacher_rows: int) -> Row:
    """The row of a method's name, which starts from SFT."""
    stage = f"{slug(name)}-{{seed}}"
    if name == SFT_MORE:
        size = config.sft.fit.batch_size
        learned = config.mario.steps * config.mario.fit.batch_size
        epochs = -(-learned // size) * size / teacher_rows
        more = replace(config.sft, epochs=epochs, evaluations=1)
        return Row("SFT, more rows", "sft", more, stage, SFT)
    if name in OTHERS:
        label, own = OTHERS[name]
        return Row(label, name, getattr(config, own), stage, SFT)
    how, _, reward = name.partition("-")
    changes: Mapping[str, Any]
    if name in VARIANTS:
        label, changes = VARIANTS[name]
    elif name == REVERSED:
        backwards = {"rewards": config.mario.rewards[::-1]}
        label, changes = "MaRio, tokens in the opposite order", backwards
    elif how == "only":
        label, changes = f"MaRio, {reward} alone", {"rewards": (reward,)}
    else:
        rest = tuple(r for r in config.mario.rewards if r != reward)
        label, changes = f"MaRio without {reward}", {"rewards": rest}
    return Row(label, "mario", replace(config.mario, **changes), stage, SFT)


def _check_rewards(exp: Experiment) -> None:
    """Self-tests of every reward on development questions, before any of them enters a headline."""

    def measure() -> Any:
        asked = [*filter(None, map(solved, exp.dev))]
        if len(asked) < FEWEST_TESTED:
            asked = [*filter(None, map(solved, exp.train))]
        asked = asked[:SELF_TESTED]
        return check_rewards(exp.suite.rewards, asked, [q.rationales[0] for q in asked])

    rows = [CheckRow(**row) for row in exp.stage("check").facts("check_rewards", measure)]
    by_first(lambda: write_text(exp.run.path / "check_rewards.txt", format_table(rows)))
    print(format_table(rows))


def _under_both_tokens(exp: Experiment, row: Row, learned: Learned) -> list[str]:
    """What the tokens do, in words: how well they rank replies, and one question's two answers."""
    stage = exp.stage(row.stage.format(seed=exp.seed))
    ranked = stage.metrics("token_auc")
    last = [r for r in ranked if r["step"] == ranked[-1]["step"]] if ranked else []
    lines = [
        f"{row.label}, token AUC of {r['reward']}: {r['auc']['mean']:.2f} "
        f"[{r['auc']['low']:.2f}, {r['auc']['high']:.2f}] on {r['attempts']} stored attempts; "
        + ("its tokens tell good from bad" if r["auc"]["low"] > 0.5 else "chance is .5")
        for r in last
        if r.get("auc")
    ]
    policy = learned.policy
    if not learned.asked.control:
        return [*lines, f"{row.label}: the start was kept, which is asked without tokens"]
    best = dict(learned.asked.control)
    question = exp.splits[exp.final_splits[0]][0]

    def write() -> list[Attempt]:
        both = [
            write_attempts(
                Sampler(policy), [question], exp.evaluation,
                Provenance("shown", exp.seed, writer=f"{stage.name}-{name}"),
                PromptOptions(control=control), label=f"{row.label} under its {name} tokens",
            )[0]
            for name, control in (("best", best), ("worst", policy.controls.worst(best)))
        ]  # fmt: skip
        return exp.suite.score(both, {question.id: question})

    lines.append(f"{row.label}: {question.question} (gold: {question.answer})")
    for name, attempt in zip(("best", "worst"), stage.attempts("both-tokens", write), strict=True):
        scores = ", ".join(
            f"{n} {'undefined' if attempt.rewards[n] is None else f'{attempt.rewards[n]:.2f}'}"
            for n in best
            if n in attempt.rewards
        )
        lines.append(f"  {name} tokens: {attempt.completion}  ({scores})")
    return lines


def _preflight(exp: Experiment, config: MarioConfig, learned: Learned) -> None:
    """Spread of each reward over two sampled attempts of 32 training questions."""

    def measure() -> Any:
        asked = exp.train[:PREFLIGHT]
        attempts = write_attempts(
            Sampler(learned.policy), asked, replace(config.sampling, n=2),
            Provenance("train", exp.seed, writer="preflight"), label="preflight",
        )  # fmt: skip
        scored = exp.suite.score(attempts, {q.id: q for q in asked})
        each = replace(named_as_loaded(config, exp.suite), variant="classic")
        return preflight(scored, exp.suite, control_bins(each, exp.suite))

    say(format_preflight(exp.stage("preflight").facts(f"preflight-{exp.seed}", measure)))
