"""Self-motivated Learning on arithmetic: the pool of questions, and what attempts are worth.

    python experiments/self_motivated_arith.py pool PATH/TO/SETS --out questions
    python experiments/self_motivated_arith.py attempts RUN --questions questions --store NAME \
        [--beside RUN] [--evaluated RUN ..]
    python experiments/self_motivated_arith.py unsettled RUN --questions questions --out unsettled \
        [--any]
    python experiments/self_motivated_arith.py informative RUN --questions questions --model M_SFT \
        --reward-models runs/rm-end runs/rm-mean runs/rm-dpo --store NAME

`pool` writes train, dev and test files; `attempts` counts what a run's stored attempts are worth in
both readings; `unsettled` writes the same files with the train questions alone at which M_sft and
what GRPO made of it are right at times; `informative` asks whether a reward orders attempts: right
above wrong at questions that nothing was fitted to, and the best of n against the majority and one
draw. `--store` adds the tables to experiments/results/NAME.json, without texts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.evaluation.intervals import paired_difference
from rationalize.evaluation.metrics import ACCURACY, STATED_ACCURACY, per_question, stated
from rationalize.evaluation.voting import scaling_curve
from rationalize.methods.own_attempts import (
    RejectConfig,
    SelectConfig,
    pass_rates,
    sort_attempts,
)
from rationalize.methods.pair_accuracy import with_interval
from rationalize.methods.train_scorers.choosing import try_scores
from rationalize.methods.train_scorers.ranking import pair_rates, rank_attempts
from rationalize.methods.train_scorers.reward_model import RewardModelConfig
from rationalize.models.policy import load_policy
from rationalize.models.precision import Numbers
from rationalize.models.reward_model import RewardModel
from rationalize.questions import load_splits
from rationalize.records import Attempt, Question
from rationalize.signals.equations import equations_hold
from rationalize.signals.ranks import rates_in_order

SETS = ("asdiv", "svamp", "singleeq", "multiarith", "addsub")
TRAIN = 600
ROOT = Path(__file__).resolve().parents[1]
RANK = RewardModelConfig(pairs=0)

AGAINST = {
    "few_shot": "base, few-shot", "control": "imitation, right-or-wrong",
    "wrong": "imitation, wrong-alone", "m_sft": "RFT, M-sft",
    "again": "RFT, unsettled again", "again_any": "imitation, unsettled, right or wrong",
}  # fmt: skip
"""What every test row is compared with: the writer, its attempts whatever they answer, those of
them that are wrong, RFT, which the others start from, and imitation from there of attempts at the
questions that GRPO meets.
"""
PUBLISHED = {"singleeq": 81.50, "addsub": 76.71, "multiarith": 78.79, "svamp": 64.20}
"""text-davinci-002, zero-shot chain of thought, accuracy in percent: the stored outputs of "Large
Language Models Are Reasoning Teachers" (Ho et al., arXiv 2212.10071), re-scored by the notebook of
github.com/itsnamgyu/reasoning-teacher. It is a yardstick within 2 to 3 points: their test splits
are not our test halves, and its files may hold train questions too. ASDiv is not among them.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    pool = commands.add_parser("pool")
    pool.add_argument("sets", type=Path)
    pool.add_argument("--out", type=Path, required=True)
    for name in ("unsettled", "attempts", "informative"):
        command = commands.add_parser(name)
        command.add_argument("run", type=Path, help="a run, or a file of attempts")
        command.add_argument("--questions", required=True)
        if name == "unsettled":
            command.add_argument("--out", type=Path, required=True)
            command.add_argument(
                "--any", action="store_true", help="as many attempts, right or wrong, to imitate"
            )
            continue
        command.add_argument("--store", metavar="NAME")
        command.add_argument("--note", default="", help="how the attempts were written")
        if name == "attempts":
            command.add_argument(
                "--beside", type=Path, help="a run whose redraws and test rows it stands beside"
            )
            command.add_argument(
                "--evaluated", nargs="*", type=Path, default=[],
                help="runs of `evaluate`: test rows, and draws at development questions",
            )  # fmt: skip
    command.add_argument("--model", required=True, help="M_sft, whose states and likelihood count")
    command.add_argument("--split", default="dev", help="questions that nothing was fitted to")
    command.add_argument("--reward-models", nargs="*", default=[])
    args = parser.parse_args()
    if args.command == "pool":
        write_pool(args.sets, args.out)
        return
    everything = attempts_at(args.run)
    if args.command == "unsettled":
        write_unsettled(everything, Path(args.questions), args.out, right=not args.any)
        return
    questions = {q.id: q for split in load_splits(args.questions).values() for q in split}
    if args.command == "attempts":
        others = attempts_at(args.beside) if args.beside else []
        redraws = pass_rates([a for a in (*others, *everything) if a.writer.endswith("-redraws")])
        tables = {"attempts": what_they_are_worth(everything, questions), "published": published()}
        log = logged(args.run / "metrics.jsonl")
        if rows := development(log):
            tables["development"] = rows
        if rows := updates(log, everything, redraws):
            tables["updates"] = rows
        runs = [run for run in (args.run, args.beside, *args.evaluated) if run]
        if rows := test(runs, questions):
            tables["test"] = rows
        if rows := draws(args.evaluated, questions):
            tables["draws"] = rows
    else:
        held_out = [a for a in everything if a.split == args.split]
        tables = informative(held_out, questions, args.model, args.reward_models)
    if args.store:
        store(args.store, tables, args.note)
    print(json.dumps(tables, indent=1))


def write_pool(sets: Path, out: Path) -> None:
    """Train, development and test files; a question's kind is its set."""
    out.mkdir(parents=True, exist_ok=True)
    train = [as_question("asdiv", row) for row in rows_at(sets / "asdiv", "train")]
    random.Random(0).shuffle(train)
    splits = {"train": train[:TRAIN]}
    for split in ("dev", "test"):
        splits[split] = [as_question(s, row) for s in SETS for row in rows_at(sets / s, split)]
        random.Random(0).shuffle(splits[split])  # the first ones are of every set
    for split, rows in splits.items():
        (out / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{split}: {len(rows)} questions")


def write_unsettled(
    attempts: Sequence[Attempt], questions: Path, out: Path, *, right: bool
) -> None:
    """The files of `questions`, the train file with the questions alone that M_sft, or what GRPO
    made of it, answers right at times; their right attempts, chosen as RFT does, as rationales; and
    all attempts at them (`attempts.parquet`). Not `right`: as many attempts at each, whatever they
    answer, as questions of their own with that answer.
    """
    drawn = [a for a in attempts if any(name in a.writer for name in ("redraws", "grpo"))]
    rates = pass_rates(drawn)
    by_id = {q.id: q for q in load_splits(questions)["train"]}
    rationales: dict[str, list[str]] = {}
    for a in sort_attempts(drawn, by_id, SelectConfig(true_equations=True, positives=3)).positives:
        rationales.setdefault(a.question_id, []).append(a.rationale)
    out.mkdir(parents=True, exist_ok=True)
    save_attempts([a for a in drawn if 0 < rates[a.question_id] < 1], out / "attempts.parquet")
    for split in ("train", "dev", "test"):
        rows = rows_at(questions, split)
        if split == "train":
            rows = [
                {**row, "rationales": rationales.get(row["id"], [])}
                for row in rows if 0 < rates.get(row["id"], 0) < 1
            ]  # fmt: skip
            rows = rows if right else blind(rows, drawn)
        (out / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{split}: {len(rows)} questions")


def blind(rows: Sequence[dict[str, Any]], drawn: Sequence[Attempt]) -> list[dict[str, Any]]:
    """For each rationale of a row one of the attempts at it that can be read and were not cut."""
    readable: dict[str, dict[str, Attempt]] = {}
    for a in drawn:
        if a.parsed and a.finish == "stop" and a.rationale:
            readable.setdefault(a.question_id, {})[a.rationale] = a
    chance, found = random.Random(0), []
    for row in rows:
        of = list(readable.get(row["id"], {}).values())
        for i, a in enumerate(chance.sample(of, min(len(row["rationales"]), len(of)))):
            taught = {"answer": a.prediction, "rationales": [a.rationale]}
            found.append({**row, "id": f"{row['id']}#{i}", **taught})
    return found


def rows_at(folder: Path, split: str) -> list[dict[str, Any]]:
    plain = folder / f"{split}.jsonl"
    packed = Path(f"{plain}.gz")
    text = plain.read_text() if plain.is_file() else gzip.decompress(packed.read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def as_question(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Without equations and rationales: k is 0."""
    kept = {key: row[key] for key in ("question", "answer", "context") if row.get(key)}
    return {"id": f"{name}/{row['id']}", **kept, "kind": name}


def attempts_at(place: Path) -> list[Attempt]:
    """The sampled attempts of a run, of a folder of attempts, or of a file."""
    folder = place / "attempts" if (place / "attempts").is_dir() else place
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    attempts = [a for file in files for a in load_attempts(file)]
    return [a for a in attempts if (a.sampling or {}).get("temperature")]


def logged(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def updates(
    log: Sequence[Mapping[str, Any]], attempts: Sequence[Attempt], before: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What GRPO wrote, five updates a row, and how much more of it is right than of M_sft's redraws
    at the same questions.
    """
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in log:
        stage, _, kind = row["stage"].partition("/")
        if kind == "rollouts" and "learned_from" in row:
            found.setdefault((stage, row["step"] // 5), []).append(row)
    rows = []
    for (stage, _), part in found.items():
        steps = {row["step"] for row in part}
        wrote = [a for a in attempts if a.writer == stage and a.round in steps]
        own = pass_rates(wrote)
        written = sum(row["written"] for row in part)
        rows.append({
            "stage": stage, "updates": f"{min(steps) + 1} to {max(steps) + 1}",
            "questions": len(own), "attempts": written,
            "tokens": float(np.mean([row["length"] for row in part])),
            "cut": sum(row["cut"] for row in part) / written,
            "parsed": float(np.mean([row["parsed"] for row in part])),
            "without_signal": sum(r["without_signal"] for r in part) / len(own),
            "wrong_longer_by": longer_where_wrong(wrote),
            "right": as_cell(list(own.values())),
            "right_of_m_sft": as_cell([before[q] for q in own]),
            "gain": gap_cell(own, {q: before[q] for q in own}),
        })  # fmt: skip
    return rows


def longer_where_wrong(attempts: Sequence[Attempt]) -> float:
    """Tokens by which wrong attempts are longer than right ones at the same question, cut ones left
    out.
    """
    lengths: dict[str, tuple[list[int], list[int]]] = {}
    for attempt in attempts:
        if attempt.finish != "length":
            of = lengths.setdefault(attempt.question_id, ([], []))
            of[attempt.rewards["correctness"] == 1].append(attempt.n_tokens)
    gaps = [np.mean(wrong) - np.mean(right) for wrong, right in lengths.values() if wrong and right]
    return float(np.mean(gaps))


def development(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy on development questions in both readings, and words, at each step of a stage."""
    rows = [row for row in log if row.get("split") == "dev" and row["stage"].endswith("/rounds")]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        if row["reward"] in ("accuracy", "stated_accuracy", "length", "truncated"):
            stage = row["stage"].removesuffix("/rounds")
            at = found.setdefault((stage, row["step"]), {"stage": stage, "n": row["n"]})
            name = {"length": "words", "truncated": "cut"}.get(row["reward"], row["reward"])
            at[name] = {key: row[key] for key in ("mean", "low", "high")}
            at["step"] = row["step"]
    return [row for row in found.values() if "stated_accuracy" in row]


def test(runs: Sequence[Path], questions: Mapping[str, Question]) -> list[dict[str, Any]]:
    """Test rows that are done, in both readings, with the paired differences to `AGAINST`."""
    of: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(f for run in runs for f in run.glob("attempts/final-*test-*.parquet")):
        row = path.stem.removeprefix("final-").rsplit("test-", 1)[0].strip("-")
        attempts = load_attempts(path)
        of[row.replace("--", ", ") or attempts[0].writer] = {
            metric.name: per_question(attempts, questions, metric)
            for metric in (ACCURACY, STATED_ACCURACY)
        }
    others = {name: of[row] for name, row in AGAINST.items() if row in of}
    return [
        {
            "row": row, "n": len(values[ACCURACY.name]),
            **{name: as_cell(list(v.values())) for name, v in values.items()},
            **{
                f"{name}_to_{other}": gap_cell(v, against[name])
                for name, v in values.items()
                for other, against in others.items() if against is not values
            },
        }
        for row, values in of.items()
    ]  # fmt: skip


def draws(runs: Sequence[Path], questions: Mapping[str, Question]) -> list[dict[str, Any]]:
    """Sampled attempts at development questions, and what each writer has beyond the last one."""
    of = {}
    for run in runs:
        for path in sorted(run.glob("attempts/final-dev-*.parquet")):
            attempts = load_attempts(path)
            of[attempts[0].writer] = per_question(attempts, questions, ACCURACY), attempts
    last = list(of.values())[-1][0] if of else {}
    return [
        {
            "writer": writer, "questions": len(rates), "attempts": len(attempts),
            "right": as_cell(list(rates.values())),
            "tokens": sum(a.n_tokens for a in attempts) / len(attempts),
            "cut": sum(a.finish == "length" for a in attempts) / len(attempts),
            **({"gain": gap_cell(rates, last)} if rates is not last else {}),
        }
        for writer, (rates, attempts) in of.items()
    ]  # fmt: skip


def gap_cell(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    gap = paired_difference(a, b, bounds=ACCURACY.bounds)
    return {"mean": gap.mean, "low": gap.low, "high": gap.high}


def what_they_are_worth(
    attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> list[dict[str, Any]]:
    """By split and writer: both readings, coverage, and what is not learned from."""
    groups: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault((attempt.split, attempt.writer), []).append(attempt)
    rows = []
    for (split, writer), group in groups.items():
        right = [questions[a.question_id].is_right(a.prediction) for a in group]
        said = [
            questions[a.question_id].is_right(stated(a, questions[a.question_id])) for a in group
        ]
        by_question: dict[str, list[bool]] = {}
        for attempt, ok in zip(group, right, strict=True):
            by_question.setdefault(attempt.question_id, []).append(ok)
        kept = sort_attempts(group, questions, SelectConfig(true_equations=True))
        rates = [sum(r) / len(r) for r in by_question.values()]
        rows.append({
            "split": split, "writer": writer, "questions": len(rates), "attempts": len(group),
            "right_strict": interval([float(ok) for ok in right], group),
            "right_stated": interval([float(ok) for ok in said], group),
            "parsed": sum(a.parsed for a in group) / len(group),
            "cut": sum(a.finish == "length" for a in group) / len(group),
            "tokens": sum(a.n_tokens for a in group) / len(group),
            "solved": sum(rate > 0 for rate in rates) / len(rates),
            "with_pairs": sum(0 < rate < 1 for rate in rates) / len(rates),
            "right_with_false_equations": sum(
                ok and not equations_hold(a.rationale) for a, ok in zip(group, right, strict=True)
            ),
            "wrong_parsed": sum(
                a.parsed and not ok for a, ok in zip(group, right, strict=True)
            ),
            "wrong_with_false_equations": sum(
                a.parsed and not ok and not equations_hold(a.rationale)
                for a, ok in zip(group, right, strict=True)
            ),
            "kept_for_imitation": len(kept.positives),
        })  # fmt: skip
    return rows


def interval(values: Sequence[float], attempts: Sequence[Attempt]) -> dict[str, float]:
    """The mean over questions of their attempts' means, and its 95 % interval."""
    by_question: dict[str, list[float]] = {}
    for value, attempt in zip(values, attempts, strict=True):
        by_question.setdefault(attempt.question_id, []).append(value)
    return as_cell([sum(v) / len(v) for v in by_question.values()])


def as_cell(rates: Sequence[float]) -> dict[str, float]:
    facts = with_interval("m", rates)
    return {"mean": facts["m"], "low": facts["m_low"], "high": facts["m_high"]}


def published() -> list[dict[str, Any]]:
    return [
        {"set": name, "text-davinci-002 (published)": f"{v:.1f}"} for name, v in PUBLISHED.items()
    ]


def informative(
    attempts: Sequence[Attempt],
    questions: Mapping[str, Question],
    model: str,
    reward_models: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Pair accuracy of every score, and what choosing by each of the reward models is worth."""
    ranked = rank_attempts(attempts, questions, RejectConfig(), RANK, 0)
    n = len(ranked)
    policy = load_policy(model, numbers=Numbers(dtype=torch.bfloat16))  # as in the experiment
    tried = try_scores(policy, ranked, "reply")
    pairs = [
        {"score": "probe" if s != "likelihood" else s, "reads": s, "questions": min(n, 150),
         "pair_accuracy": {k: f[f"pair_accuracy{e}"] for k, e in ENDS}}
        for s, f in tried.items()
    ]  # fmt: skip
    for name, worth in RULES.items():
        gaps = [
            worth(one.attempts[i]) - worth(one.attempts[j]) for one in ranked for i, j in one.pairs
        ]
        of = [one.question.id for one in ranked for _ in one.pairs]
        pairs.append({
            "score": "rule", "reads": name, "questions": n,
            "pair_accuracy": as_cell(rates_in_order(of, gaps)),
        })  # fmt: skip
    votes = [{"by": "", **row} for row in curve(attempts, questions)]
    for folder in reward_models:
        scorer = RewardModel.load(folder)
        pairs.append({
            "score": "trained", "reads": scorer.score, "questions": n,
            "pair_accuracy": as_cell(pair_rates(scorer, ranked, "reply")),
            "without_answer": as_cell(pair_rates(scorer, ranked, "rationale")),
        })  # fmt: skip
        scored = score_by(scorer, attempts, questions)
        best = curve(scored, questions, "reward_model")
        votes += [{"by": scorer.score, **row} for row in best if row["rule"].startswith("best")]
    return {"pairs": pairs, "choosing": votes}


RULES: Mapping[str, Callable[[Attempt], float]] = {
    "no false equation": lambda a: float(equations_hold(a.rationale)),
    "fewer words": lambda a: -float(len(a.rationale.split())),
}
"""What needs neither a model nor the answer."""

ENDS = (("mean", ""), ("low", "_low"), ("high", "_high"))


def score_by(
    scorer: RewardModel, attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> list[Attempt]:
    scores = scorer.scores(
        [questions[a.question_id] for a in attempts], [a.rationale for a in attempts],
        [a.prediction for a in attempts],
    )  # fmt: skip
    return [replace(a, rewards={"reward_model": s}) for a, s in zip(attempts, scores, strict=True)]


def curve(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], score: str | None = None
) -> list[dict[str, Any]]:
    return [
        {"rule": row["rule"], "k": row["k"], "questions": row["n"],
         "right": {k: row[k] for k in ("mean", "low", "high")}}
        for row in scaling_curve(attempts, questions, score=score)
    ]  # fmt: skip


def store(name: str, tables: Mapping[str, Any], note: str) -> None:
    """Add tables to the stored file; others in it stay."""
    path = ROOT / "experiments" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text()) if path.is_file() else {"meta": {}, "tables": {}}
    for table, rows in tables.items():
        known["tables"][table] = rows
        known["meta"][table] = note
    path.write_text(json.dumps(rounded(known), indent=1) + "\n")


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(of) for key, of in value.items()}
    return [rounded(of) for of in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
