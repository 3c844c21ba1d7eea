"""What a run ends with: one evaluation, `results.json`, `report.html`, a model with its card."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rationalize.environment import environment
from rationalize.errors import UserError
from rationalize.evaluation.baselines import BASE, MAJORITY, majority_attempts
from rationalize.evaluation.compare import Methods, flat
from rationalize.evaluation.harness import Asked as AskedElsewhere
from rationalize.evaluation.harness import write_harness_tasks
from rationalize.evaluation.results import Results, merge_log, save_questions, summarise
from rationalize.evaluation.terminal import format_results
from rationalize.files import sync_folder, write_text
from rationalize.methods import tuning
from rationalize.methods.base import (
    KEPT_REPLIES,
    Asked,
    Experiment,
    Learned,
    final_part,
    final_stage,
)
from rationalize.models.cards import CARD, base_facts
from rationalize.models.exported import compare_export
from rationalize.models.folders import read_facts
from rationalize.models.policy import Policy
from rationalize.models.precision import has_fast_bfloat16
from rationalize.processes import by_first
from rationalize.records import Attempt
from rationalize.report import write_report
from rationalize.report.card import CardFacts, model_card
from rationalize.runs import Run

log = logging.getLogger(__name__)


def conclude(exp: Experiment, learned: Learned, name: str) -> None:
    """Score the evaluation splits once; write `results.json`, `report.html` and `model/`.

    The base model answers the same questions, so that the page says whether learning helped.
    """
    before = base_row(exp, learned.asked.mode)
    methods: Methods = {MAJORITY: majority_row(exp), BASE: before}
    for label, policy in policies_of(name, learned):
        methods[label] = {
            split: {exp.seed: exp.evaluate(policy, label, split, asked=learned.asked)}
            for split in exp.final_splits
        }
    pairs = [(name, BASE), (name, MAJORITY)]
    pairs += [(label, name) for label in methods if label == last_label(name)]
    best = Best(name, exp.seed, learned.policy, learned.asked, learned.weights)
    write_results(
        exp, methods, pairs, model=best,
        trained=trained_rows(name, learned.trained or {}),
    )  # fmt: skip
    print(f"model: {exp.run.path / 'model'}\nreport: {exp.run.path / 'report.html'}")


def last_label(row: str) -> str:
    """The row of where a method's training ended, beside the row of what it kept."""
    return f"{row}, last policy"


def policies_of(row: str, learned: Learned) -> Iterator[tuple[str, Policy]]:
    """Each row of a method with its policy, in the memory of one: what it kept, and the last one
    where that is another. Afterwards it is the kept one again.
    """
    policy = learned.policy
    yield row, policy
    if learned.last:
        policy.load_weights(learned.last)
        yield last_label(row), policy
        policy.load_weights(learned.weights)


@dataclass(frozen=True)
class Best:
    """The policy that a run leaves behind in `model/`."""

    row: str
    seed: int
    policy: Policy
    asked: Asked
    weights: Path | None = None
    """Where a stage stored it."""


def export(exp: Experiment, best: Best) -> None:
    """Write `model/`, and compare what plain transformers writes with it with what was measured.

    Raises `UserError` where that differs; the folder is then called `model-refused`.
    """
    run, folder, asked = exp.run, exp.run.path / "model", best.asked
    facts = {
        "method": best.row, "seed": best.seed, "mode": asked.mode, "guidance": asked.guidance
    }  # fmt: skip

    def is_done() -> bool:
        done = run.done("export") or {}
        same = "compared" in done and {**done, **facts} == done
        return same and (folder / "config.json").is_file()

    if by_first(is_done):
        return
    for left in (_refused(run), folder):
        by_first(partial(shutil.rmtree, left, ignore_errors=True))
    bake = {name: b for name, b in (asked.control or {}).items() if isinstance(b, int)}
    written = asked.mode == "rationale_answer"  # `commands/resolve.py` reads how long a reply was
    told = {"reply_tokens": exp.evaluation.max_new_tokens} if written else None
    best.policy.export(run.folder("model"), bake=bake or None, stored=best.weights, told=told)
    run.finish("export", **facts, compared=by_first(lambda: _compared(exp, best)))


def _refused(run: Run) -> Path:
    return run.path / "model-refused"


def _compared(exp: Experiment, best: Best) -> dict[str, Any]:
    """What plain transformers writes with `model/`, beside what was measured."""
    run, folder, asked = exp.run, exp.run.path / "model", best.asked
    refused = _refused(run)
    split = exp.final_splits[0]
    part = final_part(split, best.seed)
    stage = final_stage(run, best.row)
    measured = {a.id: a for a in stage.stored(part) or ()}
    kept = (run.read_json(KEPT_REPLIES) or {}).get(f"{stage.name}-{part}")
    try:
        compared = compare_export(best.policy, folder, measured, kept, guidance=asked.guidance)
    except UserError as error:
        folder.rename(refused)
        raise UserError(
            f"{error}\nThe numbers above are those of rationalize, and would not be those of the "
            f"exported folder, which is now {refused}. Nothing learned is lost: the weights are in "
            f"{run.path / 'policies'}, which `rationalize evaluate` and `ask` read. Started again, "
            "the command exports and compares once more: with another version of transformers or "
            "tokenizers, if a new one changed how the base model is read; else report both texts "
            f"with the name of the base model, {exp.base.name}"
        ) from error
    if why := compared["not_compared"]:
        log.warning("%s: what it writes in transformers was not compared: %s", folder, why)
    sync_folder(folder)
    return compared


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
    exp: Experiment, methods: Methods, pairs: Sequence[tuple[str, str]],
    meta: Mapping[str, Any] | None = None, model: Best | None = None,
    **sections: Sequence[Mapping[str, Any]],
) -> Results:  # fmt: skip
    """Summarise, store, print and draw; then export the `model`. `sections` are rows for further
    sections of the page (`chains` of a coalition and what is known of itself, `votes` among several
    attempts, `trained` rewards).
    """
    results = by_first(lambda: _written(exp, methods, pairs, meta or {}, sections))
    if model is not None:
        export(exp, model)
        by_first(lambda: describe_model(exp, results, flat(methods)))
    return results


def _written(
    exp: Experiment, methods: Methods, pairs: Sequence[tuple[str, str]], meta: Mapping[str, Any],
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Results:  # fmt: skip
    questions = {q.id: q for split in exp.splits.values() for q in split}
    decided = exp.run.read_json(tuning.FILE)
    named = {"tuning": tuning.in_words(decided, exp.config.lora_rank)} if decided else {}
    program = Path(sys.argv[0]).name.replace("__main__.py", "rationalize")  # without its folder
    command = " ".join([program, *sys.argv[1:]])
    results = summarise(
        methods, questions, exp.suite.trainable, exp.suite.diagnostics, pairs=pairs,
        meta={
            "model": exp.base.name, "config": exp.run.config, "command": command,
            "hardware": hardware(), **named, **meta,
        },
    )  # fmt: skip
    for split, seeds in methods.get(MAJORITY, {}).items():
        exp.run.append(seeds[0], f"final-majority-{split}")
    merge_log(results, exp.run.metrics())
    results |= {name: list(rows) for name, rows in sections.items() if rows}
    exp.run.write_json("results.json", results)
    attempts = flat(methods)
    shown = {a.question_id: questions[a.question_id] for own in attempts.values() for a in own}
    save_questions(exp.run, shown.values())
    write_report(results, attempts, shown, exp.run.path / "report.html")
    print_tables(results)
    return results


def describe_model(
    exp: Experiment, results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]]
) -> None:
    """To an exported model: its card, and tasks that ask it the same questions elsewhere."""
    run, exported = exp.run, exp.run.done("export")
    if exported is None:
        return
    folder, method, mode = run.path / "model", exported["method"], exported["mode"]
    facts = read_facts(folder)
    decoder_only = "decoder_prefix" not in facts
    baked = facts.get("baked") or {}
    stop, *more_stops = exp.base.tokenizer.convert_ids_to_tokens(exp.base.ends)
    asked = AskedElsewhere(
        mode, templated=decoder_only and bool(facts["style"] == "chat" or baked),
        line_break=decoder_only, stop=stop, more_stops=tuple(more_stops),
    )  # fmt: skip
    sampling = exp.sampling(mode)
    splits = {split: exp.splits[split] for split in exp.final_splits}
    write_harness_tasks(run.path, splits, asked, sampling)
    base, place = base_facts(exp.config.model), Path(exp.config.questions)
    card = CardFacts(
        method=method, seed=exported["seed"], verb=run.config["method"], base=exp.base.name,
        base_id=base.hub_id, licence=base.licence, base_hash=exp.base.weights_hash,
        # a folder's or file's own name: where it lies is nobody's business
        source=place.name if place.exists() else exp.config.questions, train=len(exp.train),
        with_rationale=sum(bool(q.rationales) for q in exp.train), asked=asked, baked=baked,
        guidance=exported["guidance"], sampling=sampling,
        decoder_only=decoder_only, packages=run.read_json("env.json")["packages"],
    )  # fmt: skip
    own = [a for a in attempts[method] if a.seed == exported["seed"]]
    by_id = {q.id: q for questions in splits.values() for q in questions}
    write_text(folder / CARD, model_card(results, card, own, by_id))


def said_done(run: Run, stage: str) -> bool:
    """Whether this run is finished: then its tables are printed again."""
    if run.done(stage) is None:
        return False
    print_tables(run.read_json("results.json"))
    print(f"{run.path} is done: see {run.path / 'report.html'}, or choose another folder")
    return True


def majority_row(exp: Experiment) -> dict[str, dict[int, list[Attempt]]]:
    """The floor's first row: the majority answer on every split that is evaluated."""
    return {
        split: {0: majority_attempts(exp.train, exp.splits[split], split=split)}
        for split in exp.final_splits
    }


def base_row(
    exp: Experiment, mode: str = "rationale_answer"
) -> dict[str, dict[int, list[Attempt]]]:  # fmt: skip
    """What the untouched base model answers on every split that is evaluated: one greedy pass."""
    asked = Asked(mode, told=not exp.base.knows_form)
    return {
        split: {0: exp.evaluate(exp.base, BASE, split, asked=asked, seed=0)}
        for split in exp.final_splits
    }


def print_tables(results: Mapping[str, Any]) -> None:
    """Every split's means and differences, and what to know before believing them."""
    print(format_results(results), end="\n\n", flush=True)


def hardware() -> str:
    """Processor or accelerator, cores used and precision."""
    facts, on_gpu = environment(), torch.cuda.is_available()
    cpu = f"{facts['platform']}, {facts['threads']} threads"
    where = torch.cuda.get_device_name() if on_gpu else cpu
    fast = has_fast_bfloat16(torch.device("cuda" if on_gpu else "cpu"))
    return f"{where}, {'bfloat16' if fast else 'float32'}, torch {torch.__version__}"
