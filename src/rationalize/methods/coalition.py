"""COALITION: variants of one small model that write, refine each other's rationales and learn by
preference, and a controller that picks who works.

Patnaik et al., "It Helps to Take a Second Opinion: Teaching Smaller LLMs to Deliberate Mutually via
Selective Rationale Optimisation" (ICLR 2025, arXiv 2503.02463). What is the paper's and what is our
default is told apart in docs/methods/coalition.md.

    1. tune        M_IFT in four modes on all questions; V_1..V_N go on from it, each on its part
    2. candidates  R[a] = V_a(I) and S[a,b] = V_b.refine(I, R[a]), every pair of variants
    3. utility     U(R) = likelihood per token of the gold answer given I, R, under a frozen scorer
    4. select      generation: the best R[a] against the worst, kept if U(best) > U(no rationale)
                   refinement of R[g]: best S[g,b] against the worst, kept if U(best) > U(R[g])
    5. learn       DPO on both kinds together, V_g on its own questions, reference V_g at the
                   round's start; then from 2 with fresh candidates
    6. controller  from questions that no variant's DPO has seen: who writes, who refines, or keep
    7. infer       controller -> write -> controller -> refine -> answer

Deviations:
 1. The scorer is cross-fitted (`judge: cross-fit`): two folds, each judges the questions that it
    has not learned from. `ift` is the paper's M_IFT, `variants` the code's mean of the variants.
 2. Variants go on from M_IFT, each on its own questions, as adapters over one base; the paper
    trains all three from the base model, in full (`copies` for full copies).
 3. A rationale's answer is masked before its utility is taken (`leak: mask`), or a rationale that
    only states the answer is worth no more than none (`leak: penalty`, the default): likelihood
    rises by stating the answer alone. `none` is the paper's.
 4. N variants: best against worst. Several candidates per variant where `sampling.n` is above 1.
 5. Questions for the controller are held out of tuning and DPO; keeping a rationale is a legal
    refinement.
 6. The answerer is the scorer's choice among the options; free-form answers are written.
 7. Development questions say which round's variants are kept (`select`), no round among them.
 8. An NLL term on the chosen text (`nll_weight`); 0 is the paper's.
The release's faults (coalition.md 8) are not kept: rationales are stored with who wrote and who
refined, refinements are compared with the rationale that they refine, the answer is the final one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rationalize.methods.candidates import (
    CandidatePair,
    UtilityJudge,
    check_pairs,
    controller_examples,
    pairs_of,
    scored_once,
    utility_reward,
    write_candidates,
)
from rationalize.methods.coalition_clones import log_clones
from rationalize.methods.coalition_config import CoalitionConfig
from rationalize.methods.coalition_results import (
    conclude,
    dev_accuracy,
    log_leak,
    log_reading,
    log_refining,
)
from rationalize.methods.coalition_tuning import keep_variant, m_ift, parts_of, tune_variant
from rationalize.methods.common import load_method_splits, share
from rationalize.methods.controller import describe, train_controller
from rationalize.methods.setup import Setup, open_method
from rationalize.models.choices import ChoiceScorer
from rationalize.models.reward_model import RewardModel, read_facts, reward_model_folder
from rationalize.models.scorers import AnswerFold, AnswerScorer
from rationalize.models.variants import Variants
from rationalize.progress import say
from rationalize.questions import alike, hold_out
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.sampling.coalition import CONTROLLER, Coalition
from rationalize.sampling.writing import teacher_attempts
from rationalize.signals.pairs import partition
from rationalize.training.preference import PairTexts, learn_pairs

Own = TypeVar("Own", bound=CoalitionConfig)


def train_coalition(config: CoalitionConfig, out: Path) -> None:
    """Train in `out`; `Coalition.load(out / "coalition")` writes and answers."""
    with open_coalition(config, "coalition", out) as setup:
        made = coalition(setup, setup.config)
        conclude(setup, made)


@contextmanager
def open_coalition(config: Own, method: str, out: Path) -> Iterator[Setup[Own]]:
    """`open_method`, with the judge's scorer trained; a judge that cannot be is told first, and
    `setup.config` says who judges.
    """
    if config.judge == "reward-model":
        read_facts(reward_model_folder(config.reward_model or ""))
    splits = load_method_splits(config)
    able = judged_by(config, splits["train"])
    rewards = ("consistency",) if able.judge == "cross-fit" else ()
    with open_method(config, method, out, rewards, splits) as setup:
        setup.config = able
        yield setup


def judged_by(config: Own, train: Sequence[Question]) -> Own:
    """The configuration, with M_IFT as the judge where a cross-fitted one has nothing to learn
    from.
    """
    if config.judge != "cross-fit" or config.answer_scorer or teacher_attempts(train, "correct"):
        return config
    say(
        f"none of the {len(train)} train questions has a teacher rationale that led to its answer, "
        "which the judge cross-fit learns from: M_IFT judges in its place (--judge ift)"
    )
    return replace(config, judge="ift")


def coalition(setup: Setup, config: CoalitionConfig) -> Coalition:
    """All seven steps; every stage is stored when it ends."""
    run, names, own = setup.run, config.names, config.candidates
    learned, held = keep_apart(setup.train, config)
    instruction = share(config.instruction, config)
    variants, taught, imperfect = m_ift(setup, learned, instruction, config)
    for name, part in zip(names, parts_of(taught, config), strict=True):
        tune_variant(variants, name, part, imperfect, instruction, config, run)

    made = Coalition(variants, names, own.refiners, instruction.texts, controller=False)
    judge = judge_of(variants, setup, config)
    setup.suite = setup.suite.with_reward(utility_reward(judge, own.leak))
    log_reading(run, judge, [*setup.dev, *held])
    scores = {"tuned": dev_accuracy(setup, made, "tuned", 0)}
    log_clones(variants, setup.dev, config, run, "tuned", 0)
    parts = dict(zip(names, dpo_parts(learned, config), strict=True))
    for round in range(config.rounds):
        stage = f"round{round}"
        attempts = write_candidates(
            variants, names, learned, own, run, stage, seed=config.seed, round=round,
            refined_of={name: {q.id for q in asked} for name, (_, asked) in parts.items()},
        )  # fmt: skip
        candidates = scored_once(run, f"{stage}-utilities", attempts, learned, judge, own.leak)
        found = {
            name: pairs_of(name, candidates, *questions, own, config.seed)
            for name, questions in parts.items()
        }
        made_of = [p for pairs, _ in found.values() for p in pairs]
        log_leak(run, stage, candidates, learned, own.leak, made_of)
        check_pairs(found, round)
        for name, (pairs, dropped) in found.items():
            learn_from_pairs(variants, name, pairs, dropped, config, run, round)
        scores[stage] = dev_accuracy(setup, made, stage, round + 1)
        log_clones(variants, setup.dev, config, run, stage, round + 1)
    best = best_round(scores, config)
    run.write_json("rounds.json", {"dev_accuracy": scores, "kept": best})
    for name in names:
        variants.load(name, run.folder("variants", f"{name}-{best}"))
    made.controller = learn_who_works(variants, held, judge, config, run)
    return made


def best_round(scores: Mapping[str, float], config: CoalitionConfig) -> str:
    """The round to keep: the best on development questions, the later of equals; or the last."""
    if not config.select:
        return list(scores)[-1]
    return max(reversed(list(scores)), key=scores.__getitem__)


def judge_of(variants: Variants, setup: Setup, config: CoalitionConfig) -> UtilityJudge:
    """The frozen scorer of utilities, the same in all rounds."""
    if config.judge == "reward-model":
        own = config.reward_model or ""
        return RewardModel.load(own, trust_remote_code=config.trust_remote_code)
    if config.judge == "cross-fit":
        folder = config.answer_scorer or setup.run.path / "scorers" / "answer"
        return AnswerScorer.load(folder)
    if config.judge == "ift":
        with variants.base_policy() as policy:
            frozen = [policy.frozen()]
    else:
        frozen = []
        for name in config.names:
            with variants.active(name) as policy:
                frozen.append(policy.frozen())
    readers = [ChoiceScorer(p) for p in frozen]
    return AnswerScorer([AnswerFold(r, r) for r in readers], texts=config.instruction.texts)


def keep_apart(
    train: Sequence[Question], config: CoalitionConfig
) -> tuple[list[Question], list[Question]]:
    """Questions for tuning and DPO, shuffled, and questions for the controller alone."""
    parts = hold_out(train, config.controller_share, f"{config.seed}/controller")
    learned, held = ([train[i] for i in part] for part in parts)
    return learned, held


def dpo_parts(
    learned: Sequence[Question], config: CoalitionConfig
) -> list[tuple[Sequence[Question], Sequence[Question]]]:
    """Per variant the questions of its generation pairs and of its refinement pairs
    (coalition.md 4.1: quarters for two variants); those that ask the same stay together.
    """
    n = config.variants
    if config.partition == "all":
        return [(learned, learned)] * n
    per = 2 if config.partition == "quarters" else 1
    groups = alike(learned)
    cut = [
        [learned[i] for k in part for i in groups[k]] for part in partition(len(groups), per * n)
    ]
    return [(cut[per * g], cut[per * g + per - 1]) for g in range(n)]


def learn_from_pairs(
    variants: Variants, name: str, pairs: Sequence[CandidatePair], dropped: Counter[str],
    config: CoalitionConfig, run: Run, round: int,
) -> None:  # fmt: skip
    """DPO; the reference is the variant as it is now, its log-probabilities computed once."""
    stage = f"{name}-round{round}"
    if pairs and run.done(stage) is None:
        texts = [
            PairTexts(
                p.prompt, p.chosen.rationale, p.rejected.rationale, p.kind,
                p.chosen.finish == "stop", p.rejected.finish == "stop",
            )
            for p in pairs
        ]  # fmt: skip
        with variants.active(name) as policy:
            learn_pairs(
                policy, texts, config.fit, beta=config.beta, nll_weight=config.nll_weight,
                epochs=config.epochs, run=run, stage=stage, seed=[config.seed, round],
            )  # fmt: skip
    kinds = Counter(p.kind for p in pairs)
    foreign = sum(p.chosen.writer != name for p in pairs)
    keep_variant(
        variants, name, run, stage, pairs=dict(kinds), dropped=dict(dropped),
        chosen_from_others=foreign,
    )  # fmt: skip


def learn_who_works(
    variants: Variants, held: Sequence[Question], judge: UtilityJudge, config: CoalitionConfig,
    run: Run,
) -> bool:  # fmt: skip
    """Train the controller on candidates for questions that nobody has learned from; False where
    there is nothing to learn: no such question, nobody to choose among, or all options alike.
    """
    if not held or (config.variants == 1 and config.candidates.refiners == "none"):
        return False
    attempts = write_candidates(
        variants, config.names, held, config.candidates, run, "controller", seed=config.seed,
        round=config.rounds,
    )  # fmt: skip
    candidates = scored_once(
        run, "controller-utilities", attempts, held, judge, config.candidates.leak
    )
    log_refining(run, candidates, "final")
    log_leak(run, "final", candidates, held, config.candidates.leak)
    variants.add_adapter(CONTROLLER)
    facts: dict[str, Any] = {}
    if run.done(CONTROLLER) is None:
        examples = controller_examples(candidates, held, config.names)
        with variants.active(CONTROLLER) as policy:
            facts = train_controller(
                policy, examples, config.controller, run, CONTROLLER, config.seed
            )
    keep_variant(variants, CONTROLLER, run, CONTROLLER, **facts)
    facts = run.done(CONTROLLER) or {}
    print(describe(facts))
    return facts["learned_from"] > 0
