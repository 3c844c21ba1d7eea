"""Which link of reward conditioning breaks? One SFT model, one stored pool, many short tries.

    python experiments/mario_links.py prepare --out runs/mario-links --scorers SCORERS
    python experiments/mario_links.py try --out runs/mario-links --tries "contrast 1"
    python experiments/mario_links.py written --out runs/mario-links --scorers SCORERS --tries ..
    python experiments/mario_links.py compare --out runs/mario-links --tries BASE OTHER ..

SCORERS is the folder `scorers` of a `rationalize demo`. Every try starts from the same SFT model
and learns from the same pool without exploring again; every row of `experiments/results/
mario_links.json` (`--results`) is one try. `prepare --epochs` makes a start that has learned more.
`compare` sets what `written` wrote greedily under the best tokens beside that of the first try:
what a reward that is left out was worth, or another order of the tokens. Test questions are not
read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mario_tries import FEW_WORDS, REWARDS, TRIES, Try
from tables import STORED, write_tables

from rationalize.attempt_files import load_attempts
from rationalize.environment import environment
from rationalize.evaluation.intervals import Difference, paired_difference
from rationalize.evaluation.metrics import Metric, per_question
from rationalize.evaluation.obedience import token_metrics
from rationalize.evaluation.token_auc import token_auc
from rationalize.methods.base import Experiment
from rationalize.methods.mario import control_bins
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.pool import Drawn, Pool
from rationalize.methods.scoring import Scoring, make_suite
from rationalize.methods.settings import RunConfig, ScorerFolders
from rationalize.methods.sft import SftConfig, sft
from rationalize.models.forward import Row
from rationalize.records import Attempt, Question
from rationalize.rewards.known import known_rewards
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Run, slug
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    teacher_attempts,
    write_attempts,
)
from rationalize.signals.draws import shuffled_passes
from rationalize.training.batches import RowMaker
from rationalize.training.loop import ControlFitConfig, FitConfig, fit
from rationalize.training.objectives import quark

QUESTIONS = "builtin:train=600,dev=240,test=40,unseen=40"
SAMPLING = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64, n=4)
ASKED = {"dev": 80, "train": 150}
"""Questions that the start writes to, four attempts at each."""
SFT = SftConfig(epochs=0.375, evaluations=1, fit=FitConfig(learning_rate=2e-4, batch_size=8))
HELD_OUT = 80
"""Development questions whose attempts the tokens must rank."""


def config_of(tried: Try) -> MarioConfig:
    """The demo's MaRio with the changes of a try."""
    learned = {"learning_rate": 1e-4, "control_factor": 20.0, "batch_size": 8, **tried.fit}
    changes = {"bins": 3, "token_questions": 0, **tried.changes}
    return MarioConfig(
        **changes, steps=tried.steps, sample_interval=tried.steps, fit=ControlFitConfig(**learned)
    )


def open_start(out: Path) -> tuple[Run, Experiment]:
    config = RunConfig(questions=QUESTIONS, limits={"rationales": 2}, tuning="full")
    base = config.load_policy(tuning="full")
    run = Run.open(out / "start", {"method": "mario-links"}, base_hash=base.weights_hash)
    # names and levels; few_words alone is scored by it
    suite = RewardSuite([*known_rewards(REWARDS), FEW_WORDS])
    return run, Experiment(run, config, config.load_splits(), suite, base)


def prepare(out: Path, scorers: Path, epochs: float) -> None:
    """SFT, its attempts at training and development questions, and their scores."""
    run, exp = open_start(out)
    with run:
        policy = exp.load_policy()
        dev = exp.splits["dev"]
        few = replace(exp, splits={**exp.splits, "dev": dev[:10]})
        sft(few, policy, replace(SFT, epochs=epochs), exp.stage("sft"))
        stage, written = exp.stage("pool"), {}
        for split, n in ASKED.items():
            written[split] = stage.attempts(
                f"unscored-{split}",
                lambda split=split, n=n: write_attempts(
                    Sampler(policy), exp.splits[split][:n], SAMPLING, Provenance(split, 0)
                ),
            )
        written["teacher"] = teacher_attempts(exp.splits["train"][: ASKED["train"]], "all")
        suite = scoring_suite(exp, scorers)
        for part, attempts in written.items():
            asked = questions_of(exp, part)
            stage.attempts(part, lambda a=attempts, q=asked: suite.score(a, q))


def scoring_suite(exp: Experiment, scorers: Path) -> RewardSuite:
    folders = ScorerFolders(str(scorers / "answer"), str(scorers / "verifier"))
    scoring = Scoring(REWARDS, folders)
    return make_suite(scoring, exp.config, exp.run, exp.base, exp.train).only(*REWARDS)


def questions_of(exp: Experiment, part: str) -> dict[str, Question]:
    return {q.id: q for q in exp.splits["dev" if part == "dev" else "train"]}


def pool_of(exp: Experiment) -> list[Attempt]:
    stage = exp.stage("pool")
    return with_words(exp, (stage.stored("teacher") or []) + (stage.stored("train") or []))


def held_out(exp: Experiment) -> list[Attempt]:
    asked = {q.id for q in exp.dev[:HELD_OUT]}
    kept = [a for a in exp.stage("pool").stored("dev") or [] if a.question_id in asked]
    return with_words(exp, kept)


def with_words(exp: Experiment, attempts: Sequence[Attempt]) -> list[Attempt]:
    """With the score of few words too."""
    questions = {q.id: q for split in exp.splits.values() for q in split}
    return exp.suite.only(FEW_WORDS.name).score(attempts, questions)


def learn(out: Path, name: str, results: str) -> None:
    """One try: learn from the pool, and rank the held-out attempts."""
    if any(row["try"] == name for row in stored(results)["tables"].get("tries", [])):
        return
    tried, (run, exp) = TRIES[name], open_start(out)
    config, started = config_of(tried), time.monotonic()
    with run:
        pool = Pool(config, exp.suite, control_bins(config, exp.suite), 0)
        pool.add(pool_of(exp), config.rewards)
    with Run.open(folder_of(out, name), {"try": name}) as own:
        policy = exp.load_policy(out / "start" / "policies" / "sft")
        stage = replace(exp, run=own).stage("mario")
        reference = policy.become_reference()
        copies, init = config.control_copies, config.control_init
        policy.add_controls(control_bins(config, exp.suite), copies=copies, init=init, seed=0)
        loss = quark(
            reference, beta=config.beta, alpha=0.0, direction="reverse", contrast=config.contrast
        )
        batch_at = batches(policy, pool, config, tried)
        stage.policy(
            policy, lambda: fit(policy, loss, batch_at, config.fit, stage, steps=config.steps)
        )
        learned = own.metrics("mario")
        bins = pool.filled()
        dev = held_out(exp)
        rows = stage.facts(
            "token_auc",
            lambda: token_auc(
                policy,
                dev,
                questions_of(exp, "dev"),
                bins=bins,
                metrics=token_metrics(exp.suite, bins),
                config=config.fit,
            ),
        )
        tail = learned[-max(1, len(learned) // 4) :]
        told = [r["told"] for r in tail if "told" in r]
        facts = {
            "steps": config.steps,
            "rows": sum(len(batch_at(s)) for s in range(config.steps)),
            "tokens": int(sum(r["weight"] for r in learned)),
            "nll first": learned[0]["nll"],
            "nll last quarter": float(np.mean([r["nll"] for r in tail])),
            "told apart, last quarter": float(np.mean(told)) if told else None,
            "minutes": (time.monotonic() - started) / 60,
        }
        store("tries", name, [{**facts, **row} for row in rows], results)


def batches(policy: Any, pool: Pool, config: MarioConfig, tried: Try) -> Any:
    """The rows of a step: drawn by bin, or whole questions."""
    maker = RowMaker(policy)
    by_question: dict[str, list[int]] = {}
    for i, attempt in enumerate(pool.attempts):
        by_question.setdefault(attempt.question_id, []).append(i)
    names = sorted(by_question)

    def batch_at(step: int) -> list[Row]:
        drawn = pool.draw(step, config.rewards)
        if tried.together:
            picked = shuffled_passes(len(names), tried.together, step, 0)
            indices = [i for k in picked for i in by_question[names[k]]]
            whole = [
                Drawn(pool.attempts[i], {n: int(b[i]) for n, b in pool.bins.items()})
                for i in indices
            ]
            drawn = pool.told_apart(whole, step) if config.contrast else whole
        bare = np.random.default_rng(step).random(len(drawn)) < tried.without_tokens
        return [
            maker.attempt(d.attempt) if b else maker.attempt(d.attempt, d.bins, other=d.other)
            for d, b in zip(drawn, bare, strict=True)
        ]

    return batch_at


WAYS = {
    "greedy": (0.0, SamplingConfig(temperature=0.0)),
    "sampled": (0.0, SamplingConfig(temperature=1.0, top_p=0.9)),
    "guidance 2, greedy": (2.0, SamplingConfig(temperature=0.0)),
}
"""How replies are written: guidance and sampling."""


def asked_for(exp: Experiment) -> Sequence[Question]:
    """Development questions that no try's tokens ranked."""
    return exp.dev[120:220]


def written(
    out: Path, name: str, scorers: Path, results: str, ways: Sequence[str] = tuple(WAYS)
) -> None:
    """What a try's policy reaches under its best and its worst tokens."""
    run, exp = open_start(out)
    folder = folder_of(out, name)
    with run, Run.open(folder, {"try": name}) as own:
        policy = exp.load_policy(folder / "policies" / "mario")
        asked, stage = asked_for(exp), replace(exp, run=own).stage("mario")
        suite, by_id = scoring_suite(exp, scorers), {q.id: q for q in asked}
        filled = dict(policy.controls.bins)
        best = dict.fromkeys(filled, 0)
        rows = []
        for how in ways:
            (guidance, sampling), reached = WAYS[how], {}
            for end in ("best", "worst"):
                control = best if end == "best" else {n: k - 1 for n, k in filled.items()}
                if guidance and end == "worst":
                    continue
                reached[end] = stage.attempts(
                    f"{slug(how)}-{end}",
                    lambda c=control, g=guidance, s=sampling, e=end: with_words(
                        exp,
                        suite.score(
                            write_attempts(
                                Sampler(policy, guidance=g),
                                asked,
                                s,
                                Provenance("dev", 0, writer=e),
                                PromptOptions(control=c),
                            ),
                            by_id,
                        ),
                    ),
                )
            read = dict.fromkeys([*REWARDS, *filled])  # a reward without a token, too
            for reward, metric in token_metrics(exp.suite, read).items():
                values = {
                    e: list(per_question(a, by_id, metric).values()) for e, a in reached.items()
                }
                row = {
                    "how": how,
                    "reward": reward,
                    "n": len(asked),
                    **{e: float(np.mean(v)) for e, v in values.items()},
                }
                if "worst" in values:
                    row["gap"] = as_cell(paired_difference(values["best"], values["worst"]))
                rows.append(row)
                print(json.dumps(row), flush=True)
    store("written", name, rows, results)


def folder_of(out: Path, name: str) -> Path:
    """The run of a try."""
    return out / "tries" / name.replace(" ", "-")


def as_cell(gap: Difference) -> dict[str, float]:
    return {"mean": gap.mean, "low": gap.low, "high": gap.high, "p": gap.p}


def compare(out: Path, base: str, others: Sequence[str], results: str) -> None:
    """Greedy replies under the best tokens: every reward's mean, beside that of `base`."""
    _, exp = open_start(out)
    by_id = {q.id: q for q in asked_for(exp)}

    def reached(name: str, metric: Metric) -> dict[str, float]:
        file = folder_of(out, name) / "attempts" / "mario-greedy-best.parquet"
        return per_question(load_attempts(file), by_id, metric)

    for name in (base, *others):
        rows = []
        for reward, metric in token_metrics(exp.suite, (*REWARDS, FEW_WORDS.name)).items():
            values, of_base = reached(name, metric), reached(base, metric)
            row = {"reward": reward, "n": len(values), "mean": float(np.mean([*values.values()]))}
            if name != base:
                gap = paired_difference(values, of_base, bounds=metric.bounds)
                row["difference"] = as_cell(gap)
            rows.append(row)
            print(json.dumps({"try": name, **rows[-1]}), flush=True)
        store("compared", name, rows, results)


def store(table: str, name: str, rows: Sequence[dict[str, Any]], file: str = "mario_links") -> None:
    """Put rows into a table, in the place of those of an earlier measurement of this name."""
    found = stored(file)
    others = [row for row in found["tables"].get(table, []) if row["try"] != name]
    found["tables"][table] = [*others, *({"try": name, **row} for row in rows)]
    found["meta"] = {
        "command": "python experiments/mario_links.py", "seed": 0, "questions": QUESTIONS,
        "model": "SmolLM2-135M-Instruct, 4-bit weights de-quantised", **environment(),
    }  # fmt: skip
    write_tables(file, found["meta"], found["tables"])


def stored(file: str = "mario_links") -> dict[str, Any]:
    path = STORED / f"{file}.json"
    return json.loads(path.read_text()) if path.exists() else {"meta": {}, "tables": {}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["prepare", "try", "written", "compare"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scorers", type=Path)
    parser.add_argument("--tries", nargs="*", default=list(TRIES))
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--epochs", type=float, default=SFT.epochs, help="of the start's SFT")
    parser.add_argument("--results", default="mario_links", metavar="NAME")
    args = parser.parse_args()
    if args.what == "prepare":
        prepare(args.out, args.scorers, args.epochs)
    if args.what == "compare":
        compare(args.out, args.tries[0], args.tries[1:], args.results)
    for name in args.tries if args.what in ("try", "written") else ():
        if args.what == "try":
            learn(args.out, name, args.results)
        else:
            written(args.out, name, args.scorers, args.results, args.ways)


if __name__ == "__main__":
    main()
