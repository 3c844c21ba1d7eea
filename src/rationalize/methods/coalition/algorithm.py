"""COALITION: variants of one small model that write, refine each other's rationales and learn by
preference, and a controller that picks who works.

Patnaik et al., "It Helps to Take a Second Opinion: Teaching Smaller LLMs to Deliberate Mutually via
Selective Rationale Optimisation" (ICLR 2025, arXiv 2503.02463). What is the paper's and what is our
default is told apart in docs/methods/coalition.md.

    1. tune        M_IFT in four modes on all questions; V_1..V_N go on from it, each on its part
                   (or from the base model)
    2. candidates  R[a] = V_a(I) and S[a,b] = V_b.refine(I, R[a]), every pair of variants
    3. utility     U(R) = likelihood per token of the gold answer given I, R, under a frozen scorer
    4. select      generation: the best R[a] against the worst, kept if U(best) > U(no rationale)
                   refinement of R[g]: best S[g,b] against the worst, kept if U(best) > U(R[g])
    5. learn       DPO on both kinds together, V_g on its own questions, reference V_g at the
                   round's start; then from 2 with fresh candidates
    6. controller  from questions that no variant's DPO has seen: who writes, who refines, or keep
    7. infer       controller -> write -> controller -> refine -> answer
                   (evaluated by look-ups in one factorial table: `table.py`)

Deviations:
 1. The scorer is cross-fitted (`judge: cross-fit`): two folds, each judges the questions that it
    has not learned from. `ift` is the paper's M_IFT, out of sample with `preference_share`;
    `variants` the code's mean of the variants.
 2. Variants go on from M_IFT, each on its own questions, as adapters over one base; the paper
    trains all three from the base model, in full (`variants_from: base` with `copies`).
 3. Likelihood rises by stating the answer alone. So a rationale's answer is masked before its
    utility is taken (`leak: mask`), or, where the judge cannot read what that leaves, a rationale
    that only states the answer is worth no more than none (`penalty`). `none` is the paper's.
 4. N variants: best against worst, of texts without a fault. Several candidates per variant where
    `sampling.n` is above 1; a `panel` of refiners where there are many.
 5. Questions for the controller are held out of tuning and DPO; keeping a rationale is a legal
    refinement.
 6. The answerer is M_IFT's choice among the options; free-form answers are written.
 7. Development questions say which round's variants are kept (`select`), no round among them.
 8. An NLL term on the chosen text (`nll_weight`); 0 is the paper's.
The release's faults are not kept: rationales are stored with who wrote and who refined, refinements
are compared with the rationale that they refine, the answer is the final one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rationalize.methods.base import Experiment
from rationalize.methods.coalition.candidates import (
    Candidates,
    UtilityJudge,
    asked_for_pairs,
    utility_reward,
    with_utilities,
    write_candidates,
)
from rationalize.methods.coalition.config import CoalitionConfig
from rationalize.methods.coalition.controller import fit_controller
from rationalize.methods.coalition.diagnostics import log_clones, log_leak, log_reading
from rationalize.methods.coalition.evaluate import LearnedCoalition, dev_accuracy
from rationalize.methods.coalition.inference import Coalition
from rationalize.methods.coalition.select import Pairs, check_pairs, pair_facts, pairs_of
from rationalize.methods.coalition.tuning import VariantWeights, tuned_variants
from rationalize.methods.pair_accuracy import held_out_questions, log_held_out
from rationalize.models.choices import ChoiceScorer
from rationalize.models.policy import Policy
from rationalize.models.reward_model import RewardModel
from rationalize.models.scorers import AnswerFold, AnswerScorer
from rationalize.models.variants import Variants
from rationalize.questions import group_duplicates, hold_out
from rationalize.records import Question
from rationalize.runs import Stage
from rationalize.signals.pairs import partition
from rationalize.training.preference import PairTexts, learn_pairs
from rationalize.training.selection import best_of


def coalition(
    exp: Experiment, policy: Policy, config: CoalitionConfig, stage: Stage,
    judge: UtilityJudge | None = None,
) -> LearnedCoalition:  # fmt: skip
    """All seven steps. `policy` becomes M_IFT; the coalition is `policy` of what is returned.

    `judge` gives the utilities; None: as the configuration says.
    """
    config = replace(config, judge=config.judged_by(exp.train))
    names = config.names
    taught, compared, held = keep_apart(exp.train, config, exp.seed)

    # 1. tune: M_IFT in four modes, and the variants from it, each on its part
    variants = tuned_variants(exp, policy, taught, config)
    made = Coalition(
        variants, names, config.candidates.refiners, config.instruction.texts, controller=False,
        routing=config.routing,
    )  # fmt: skip

    # the frozen scorer of step 3, the same in all rounds; and what the rounds are measured against
    judge = judge or judge_of(exp, variants, config)
    leak = log_reading(exp, judge, [*exp.dev, *held], config)
    config = replace(config, candidates=replace(config.candidates, leak=leak))
    utility = utility_reward(judge, leak)
    exp = exp.with_reward(utility)
    log_clones(exp, variants, config, judge, "tuned", 0)
    scores = {"tuned": dev_accuracy(exp, made, stage, "tuned", 0)}

    parts = dict(zip(names, dpo_parts(compared, config), strict=True))
    aside = {name: pairs_kept_aside(part, config, exp.seed) for name, part in parts.items()}

    def select(candidates: Candidates) -> dict[str, Pairs]:
        return {
            name: pairs_of(name, candidates, *parts[name], config.candidates, exp.seed)
            for name in names
        }

    for round in range(config.rounds):
        when = f"round{round}"

        # 2. candidates: every variant writes, and refines what the others wrote
        asked = asked_for_pairs(parts)
        attempts = write_candidates(exp, variants, config, compared, when, round, asked)

        # 3. utility: how likely the gold answer is, given each
        candidates = with_utilities(exp, config, compared, attempts, when, judge)
        exp = replace(exp, source=None)  # what follows depends on all settings

        # 4. select: the best against the worst
        pairs_by_variant = select(candidates)
        log_leak(exp, candidates, compared, config, when, judge, select)
        check_pairs(pairs_by_variant, round)

        # 5. learn: DPO of each variant on its pairs of both kinds
        for name, pairs in pairs_by_variant.items():
            learn_from_pairs(exp, variants, name, pairs, config, round, aside[name])
        scores[when] = dev_accuracy(exp, made, stage, when, round + 1)
        log_clones(exp, variants, config, judge, when, round + 1)

    kept = best_of(scores) if config.select else list(scores)[-1]
    rounds = {"dev_accuracy": scores, "kept": kept, "stage": stage.name, "variants": names}
    exp.run.write_json("rounds.json", rounds)
    for name in names:
        variants.load(name, exp.run.path / "variants" / f"{name}-{kept}")

    # 6. controller: who writes, who refines, from questions that nobody has learned from
    exp = replace(exp, source=None)
    made.controller = fit_controller(exp, variants, held, judge, config)

    # 7. infer: `Coalition.chains`
    rewards = ["utility", *(r.name for r in exp.suite.trainable if r.name == "consistency")]
    return LearnedCoalition(
        made, exp.run.path / "coalition", trained={stage.name: rewards}, config=config,
        utility=utility,
    )  # fmt: skip


def judge_of(exp: Experiment, variants: Variants, config: CoalitionConfig) -> UtilityJudge:
    """The frozen scorer of utilities."""
    if config.judge == "reward-model":
        trusted = exp.config.trust_remote_code
        return RewardModel.load(config.reward_model or "", trust_remote_code=trusted)
    if config.judge == "cross-fit":
        return AnswerScorer.load(config.answer_scorer or exp.run.path / "scorers" / "answer")
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
    train: Sequence[Question], config: CoalitionConfig, seed: int
) -> tuple[list[Question], list[Question], list[Question]]:
    """Questions for tuning, for DPO (the same ones, or others: `preference_share`), both shuffled,
    and for the controller alone.
    """
    parts = hold_out(train, config.controller_share, f"{seed}/controller")
    learned, held = ([train[i] for i in part] for part in parts)
    if not config.preference_share:
        return learned, learned, held
    share = config.preference_share * len(train) / len(learned)
    split = hold_out(learned, share, f"{seed}/preferences")
    taught, compared = ([learned[i] for i in part] for part in split)
    return taught, compared, held


def pairs_kept_aside(
    part: tuple[Sequence[Question], Sequence[Question]], config: CoalitionConfig, seed: int
) -> Collection[str]:
    """Ids of the questions whose pairs a variant does not learn from, the same in all rounds."""
    questions = list({q.id: q for own in part for q in own}.values())
    return held_out_questions(questions, config.held_out_pairs, seed)


def dpo_parts(
    learned: Sequence[Question], config: CoalitionConfig
) -> list[tuple[Sequence[Question], Sequence[Question]]]:
    """Per variant the questions of its generation pairs and of its refinement pairs: quarters for
    two variants, as in the release. Questions that ask the same are in one part.
    """
    n = config.variants
    if config.partition == "all":
        return [(learned, learned)] * n
    per_variant = 2 if config.partition == "quarters" else 1
    groups = group_duplicates(learned)
    ranges = partition(len(groups), per_variant * n)
    parts = [[learned[i] for k in part for i in groups[k]] for part in ranges]
    first = [per_variant * g for g in range(n)]
    return [(parts[i], parts[i + per_variant - 1]) for i in first]


def learn_from_pairs(
    exp: Experiment, variants: Variants, name: str, pairs: Pairs, config: CoalitionConfig,
    round: int, aside: Collection[str],
) -> None:  # fmt: skip
    """DPO; the reference is the variant as it is now. A variant without pairs stays as it is.

    Pairs of the questions `aside` are only ordered, before and after.
    """
    stage = exp.stage(f"{name}-round{round}", kind="variants")
    kept, dropped = pairs

    def learn() -> Mapping[str, Any]:
        texts, unseen = (
            [
                PairTexts(p.prompt, p.chosen.rationale, p.rejected.rationale, p.kind)
                for p in kept
                if (p.chosen.question_id in aside) == is_aside
            ]
            for is_aside in (False, True)
        )
        facts = {**pair_facts(kept, name), "dropped": dict(dropped)}
        if not texts:
            return facts
        with variants.active(name) as policy:
            margins = learn_pairs(
                policy, texts, config.fit, beta=config.beta, nll_weight=config.nll_weight,
                epochs=config.epochs, stage=stage, seed=[exp.seed, round], held_out=unseen,
            )  # fmt: skip
        return {**facts, "held_out": log_held_out(stage, unseen, margins, len(texts))}

    stage.policy(VariantWeights(variants, name), learn)
