"""The factorial table of a split: every writer's draws, each as it is and refined by everybody, is
written and read once; what any routing would have done is a look-up in it.

    row                   cells of a question
    no refinement         (w, keep) of all variants w and draws
    self-refinement       (w, w)
    cross-refinement      (w, r), r another variant
    random controller     all that the controller may choose: an expectation, not a draw
    fixed controller      the one (w, r) that was best on the controller's questions
    COALITION             (w, r) as the controller chooses, for each draw of w
    surest variant        (w, keep), w the variant whose text makes M_IFT surest of an answer
    oracle controller     the (w, r) with the best utility on another draw; it reads the gold answer
    M_IFT alone           (M_IFT, keep)
    Self-Refine           (M_IFT, M_IFT): arXiv 2303.17651 in one round, by our `refine` mode

So that rows differ in who works, never in luck: two of them that choose alike share their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rationalize.answers import reply_text
from rationalize.evaluation.clones import variance_row
from rationalize.methods.base import Experiment, final_stage
from rationalize.methods.coalition.config import CoalitionConfig, Refiners, Routing, refines
from rationalize.methods.coalition.inference import BASE, Chain, Coalition, Draft, preference
from rationalize.models.choices import ChoiceScorer
from rationalize.models.controller import KEEP
from rationalize.models.scorers import AnswerFold
from rationalize.records import Attempt, Question
from rationalize.sampling.config import SamplingConfig

RANDOM, SELF, CROSS, UNREFINED = (
    "random controller", "self-refinement", "cross-refinement", "no refinement",
)  # fmt: skip
FIXED_ROW, SUREST, ORACLE, ALONE, SELF_REFINE = (
    "fixed controller", "surest variant", "oracle controller", "M_IFT alone", "Self-Refine",
)  # fmt: skip
OWN_ANSWER = "last variant answers"
"""COALITION's cells with the answer of the variant that wrote last, not M_IFT's."""

OTHERS = (RANDOM, FIXED_ROW, SUREST, ORACLE, SELF, CROSS, UNREFINED, ALONE, SELF_REFINE, OWN_ANSWER)
"""Rows beside the coalition's own, where the table has cells for them."""


@dataclass(frozen=True)
class Cell:
    """One way in which one question was answered."""

    writer: str
    refiner: str
    """Who was asked to refine it, or `keep`."""
    draw: int
    picked: bool
    """Whether the controller chooses it."""
    own: str | None
    """The choice that the last variant reads out of the rationale; None without choices."""
    attempt: Attempt
    """Scored; its answer is M_IFT's."""
    sure: float | None = None
    """How sure M_IFT is of it; unknown in tables of earlier versions."""

    @property
    def question_id(self) -> str:
        return self.attempt.question_id


def rows_of_table(
    exp: Experiment, coalition: Coalition, config: CoalitionConfig, split: str, name: str,
    fixed: Mapping[str, Any] | None, *, base: bool = True,
) -> dict[str, list[Attempt]]:  # fmt: skip
    """Every row's attempts at a split, several a question, scored and stored; `name` is the
    coalition's own row, `fixed` the best (writer, refiner) elsewhere. Without `base` M_IFT is left
    out as a writer.
    """
    questions = exp.splits[split]
    cells = _cells(exp, coalition, config, split, base=base)
    if config.draws > 1 and config.variants > 1:
        _log_variance(exp, cells, coalition.names, split)
    looked_up = look_up(
        cells, coalition.names, config.candidates.refiners, name, fixed, config.routing
    )
    by_id = {q.id: q for q in questions}
    answers = exp.suite.only("correctness")

    def renamed(row: str, cell: Cell) -> Attempt:
        who = f"{cell.draw}/{cell.writer}/{cell.refiner}"
        attempt = replace(
            cell.attempt, id=f"{row}/{who}/{cell.question_id}", writer=row, seed=exp.seed
        )
        if row != OWN_ANSWER or cell.own is None:
            return attempt
        text = reply_text(attempt.rationale, cell.own, by_id[cell.question_id].choices)
        return replace(attempt, prediction=cell.own, completion=text)

    rows = {}
    for row, of_row in looked_up.items():

        def made(row: str = row, of_row: Sequence[Cell] = of_row) -> list[Attempt]:
            attempts = [renamed(row, cell) for cell in of_row]
            return answers.score(attempts, by_id) if row == OWN_ANSWER else attempts

        rows[row] = final_stage(exp.run, row).attempts(f"{split}-{exp.seed}", made)
    return rows


def look_up(
    cells: Sequence[Cell], names: Sequence[str], refiners: Refiners, name: str,
    fixed: Mapping[str, Any] | None, routing: Routing = "controller",
) -> dict[str, list[Cell]]:  # fmt: skip
    """The cells of every row; rows without cells are left out. The row `name` is the one that
    `routing` says; without a controller, that of random choices.
    """
    of = {
        row: [c for c in cells if has(c.writer, c.refiner)]
        for row, has in cells_by_who(names, refiners).items()
    }
    allowed, kept = of[RANDOM], of[UNREFINED]
    picked = [c for c in cells if c.writer in names and c.picked]
    sure = surest_cells(kept) if len(names) > 1 else []
    best = (fixed["writer"], fixed["refiner"]) if fixed else None
    rows = {
        name: (sure if routing == "surest" else picked) or allowed,
        RANDOM: allowed,
        SUREST: sure,
        FIXED_ROW: [c for c in allowed if (c.writer, c.refiner) == best],
        ORACLE: oracle(allowed),
        **{row: of[row] for row in (SELF, CROSS, UNREFINED, ALONE, SELF_REFINE)},
        OWN_ANSWER: [c for c in picked or allowed if c.own is not None],
    }
    return {row: found for row, found in rows.items() if found}


def cells_by_who(names: Sequence[str], refiners: Refiners) -> dict[str, Callable[[str, str], bool]]:
    """Rows that hang on who worked alone: whether a cell of this writer and refiner is in them."""
    return {
        RANDOM: lambda w, r: w in names and (r == KEEP or refines(r, w, refiners)),
        SELF: lambda w, r: w in names and r == w,
        CROSS: lambda w, r: w in names and r not in (w, KEEP),
        UNREFINED: lambda w, r: w in names and r == KEEP,
        ALONE: lambda w, r: (w, r) == (BASE, KEEP),
        SELF_REFINE: lambda w, r: (w, r) == (BASE, BASE),
    }


def surest_cells(cells: Sequence[Cell]) -> list[Cell]:
    """For every question and draw the cell whose answer M_IFT is surest of, with the tokens of all.
    Nothing where that is not known.
    """
    together: dict[tuple[str, int], list[Cell]] = {}
    for c in cells:
        if c.sure is None:
            return []
        together.setdefault((c.question_id, c.draw), []).append(c)
    found = []
    for group in together.values():
        best = max(
            group,
            key=lambda c: preference(c.attempt.rationale, c.attempt.prediction, c.sure or 0.0),
        )
        cost = sum(c.attempt.n_tokens for c in group)
        found.append(replace(best, attempt=replace(best.attempt, n_tokens=cost)))
    return found


def oracle(cells: Sequence[Cell]) -> list[Cell]:
    """For every question and draw the writer and refiner whose utility was best on the draw before.
    Nothing where there is one draw: picked and scored on the same one, chance looks like skill.
    """
    by_draw: dict[str, dict[int, dict[tuple[str, str], Cell]]] = {}
    for c in cells:
        of_question = by_draw.setdefault(c.question_id, {})
        of_question.setdefault(c.draw, {})[c.writer, c.refiner] = c
    found = []
    for draws in by_draw.values():
        if len(draws) < 2:
            return []
        for draw, of_draw in draws.items():
            before = draws[(draw - 1) % len(draws)]
            best = max(before, key=lambda who: before[who].attempt.rewards["utility"] or 0.0)
            found.append(of_draw[best])
    return found


def _cells(
    exp: Experiment, coalition: Coalition, config: CoalitionConfig, split: str, *, base: bool
) -> list[Cell]:
    """The whole table, written once: its attempts as a part of the stage, the chains as a file."""
    file, stage = f"chains/table-{split}.json", exp.stage("table")

    def write() -> list[Attempt]:
        rows, chains = _written(exp, coalition, config, split, base=base)
        exp.run.write_json(file, [
            {**row, **chain.as_row()} for row, chain in zip(rows, chains, strict=True)
        ])  # fmt: skip
        attempts = [
            replace(chain.as_attempt(f"{row['writer']}>{row['asked']}", exp.seed),
                    id=f"{split}/{row['draw']}/{row['writer']}>{row['asked']}/{chain.question.id}")
            for row, chain in zip(rows, chains, strict=True)
        ]  # fmt: skip
        return exp.suite.score(attempts, {q.id: q for q in exp.splits[split]})

    attempts = stage.attempts(f"{split}-{exp.seed}", write)
    return [
        Cell(
            row["writer"],
            row["asked"],
            row["draw"],
            row["picked"],
            row["own"],
            attempt,
            row.get("sure"),
        )
        for row, attempt in zip(exp.run.read_json(file), attempts, strict=True)
    ]


def _written(
    exp: Experiment, coalition: Coalition, config: CoalitionConfig, split: str, *, base: bool
) -> tuple[list[dict[str, Any]], list[Chain]]:
    """Facts of every cell, and its chain."""
    questions, sampling = exp.splits[split], replace(exp.evaluation, n=1)
    if config.draws > 1:
        drawn = config.candidates.sampling
        tokens = exp.evaluation.max_new_tokens
        sampling = replace(drawn, max_new_tokens=tokens, n=config.draws)
    asked = every_cell(coalition, questions, sampling, (split, exp.seed), base=base)
    picked = controller_picks(coalition, questions, [d for d, r in asked if r == KEEP], exp.seed)

    # the answers, M_IFT's and the last writer's
    chains = coalition.answered([d for d, _ in asked])
    own = _own_answers(coalition, chains)
    rows = [
        {"draw": d.draw, "asked": r, "writer": d.written.writer, "own": answer,
         "picked": picked.get((d.question.id, d.draw)) == (d.written.writer, r)}
        for (d, r), answer in zip(asked, own, strict=True)
    ]  # fmt: skip
    return rows, chains


def every_cell(
    coalition: Coalition, questions: Sequence[Question], sampling: SamplingConfig,
    where: tuple[str, int], *, base: bool,
) -> list[tuple[Draft, str]]:  # fmt: skip
    """Each writer's `sampling.n` texts of each question, as they are (`keep`) and then as each
    refiner that may refines them; `base`: M_IFT writes and refines its own, too.
    """
    writers = [*coalition.names, *([BASE] if base else [])]
    drafts: list[Draft] = []
    for writer in writers:
        texts = coalition.write(questions, [writer] * len(questions), sampling, where)
        drafts += [
            Draft(q, a, None, d)
            for q, of_question in zip(questions, texts, strict=True)
            for d, a in enumerate(of_question)
        ]

    def may(refiner: str, writer: str) -> bool:
        if coalition.refiners == "none":
            return False
        return refiner == writer or (
            BASE not in (refiner, writer) and refines(refiner, writer, coalition.refiners)
        )

    asked = [(d, r) for r in writers for d in drafts if may(r, d.written.writer)]
    refined = coalition.write(
        [d.question for d, _ in asked],
        [r if d.written.rationale else KEEP for d, r in asked],
        replace(sampling, n=1), where, given=[d.written for d, _ in asked],
    ) if asked else []  # fmt: skip
    return [(d, KEEP) for d in drafts] + [
        (replace(d, refined=texts[0] if texts else None), r)
        for (d, r), texts in zip(asked, refined, strict=True)
    ]


def controller_picks(
    coalition: Coalition, questions: Sequence[Question], drafts: Sequence[Draft], seed: int
) -> dict[tuple[str, int], tuple[str, str]]:
    """By question and draw the writer and the refiner (or `keep`) that the controller chooses."""
    if not coalition.controller:
        return {}
    writers = coalition.writers(questions, seed, "controller")
    of = {q.id: w for q, w in zip(questions, writers, strict=True)}
    chosen = [d for d in drafts if d.written.writer == of[d.question.id]]
    written = [d.written for d in chosen]
    refiners = coalition.refiners_of([d.question for d in chosen], written, seed, "controller")
    return {
        (d.question.id, d.draw): (d.written.writer, refiner)
        for d, refiner in zip(chosen, refiners, strict=True)
    }


def _own_answers(coalition: Coalition, chains: Sequence[Chain]) -> list[str | None]:
    """What the variant that wrote last reads out of each rationale, where there are choices."""
    answers: list[str | None] = [None] * len(chains)
    for name in coalition.names:
        rows = [
            i for i, c in enumerate(chains)
            if c.refined.writer == name and c.question.choices and c.rationale
        ]  # fmt: skip
        if not rows:
            continue
        with coalition.variants.active(name) as policy:
            reader = ChoiceScorer(policy)
            read = AnswerFold(reader, reader).probabilities(
                [chains[i].question for i in rows], [chains[i].rationale for i in rows],
                coalition.texts,
            )  # fmt: skip
        for i, p in zip(rows, read, strict=True):
            answers[i] = (chains[i].question.choices or ())[int(np.argmax(p))]
    return [
        chain.prediction if own is None and chain.question.choices else own
        for own, chain in zip(answers, chains, strict=True)
    ]


def _log_variance(exp: Experiment, cells: Sequence[Cell], names: Sequence[str], split: str) -> None:
    """Whether utility varies more between variants than between draws, on what they wrote."""
    utilities: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for c in cells:
        if c.writer in utilities and c.refiner == KEEP:
            of_question = utilities[c.writer].setdefault(c.question_id, [])
            of_question.append(c.attempt.rewards["utility"] or 0.0)
    exp.stage("table").facts(f"variance-{split}", lambda: variance_row(utilities))
