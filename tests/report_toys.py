"""A finished run of six methods, as the report gets it; nothing in it was learned."""

import random
import re
from dataclasses import dataclass

from rationalize.evaluation.baselines import majority_attempts
from rationalize.evaluation.results import merge_log, summarise
from rationalize.records import Attempt, Question


@dataclass(frozen=True)
class Spec:
    name: str
    range: tuple[float, float]


REWARDS = [Spec("plausibility", (0, 1)), Spec("diversity", (0, 1)), Spec("consistency", (-1, 1))]
DIAGNOSTICS = [Spec("fluency", (float("-inf"), 0)), Spec("repetition", (0, 1))]
SKILL = {"direct": 0.5, "SFT": 0.52, "FILT-ACC": 0.55, "PRODUCT": 0.56, "MaRio": 0.64}
WORDS = [
    "the",
    "steel",
    "ball",
    "is",
    "heavier",
    "than",
    "wood",
    "so",
    "it",
    "sinks",
    "and",
    "water",
    "pushes",
    "less",
    "on",
    "what",
    "is",
    "dense",
]


def question(i, split):
    kinds = ["physics", "ordering", "counting", "causes"]
    choices = ("the steel ball", "the wooden ball")
    return Question(
        f"{split}-{i:04d}",
        "Ada drops a steel ball and a wooden ball into a pond. Which of the two sinks in case "
        f"{i}?",
        choices[i % 3 == 0],
        choices=choices,
        kind=kinds[i % 4],
    )


def attempt(q, method, split, seed, rng):
    right = rng.random() < SKILL[method]
    other = next(c for c in q.choices if c != q.answer)
    prediction = None if rng.random() < 0.03 else q.answer if right else other
    direct = method == "direct"
    length = rng.randint(8, 26)
    text = " ".join(rng.choice(WORDS) for _ in range(length)).capitalize() + "."
    rewards = {
        "plausibility": min(1, max(0, rng.gauss(SKILL[method], 0.2))),
        "diversity": min(1.0, rng.gauss(0.95, 0.06)),
        "consistency": None if rng.random() < 0.03 else min(1, rng.gauss(0.3 * right, 0.3)),
        "fluency": rng.gauss(-3, 0.6),
        "repetition": max(0.0, rng.gauss(0.05, 0.05)),
    }
    return Attempt(
        id=f"{split}/{method}/{seed}/{q.id}",
        question_id=q.id,
        mode="answer" if direct else "rationale_answer",
        prompt=q.question,
        completion=text,
        rationale="" if direct else text,
        prediction=prediction,
        gold=q.answer,
        parsed=prediction is not None,
        finish="length" if rng.random() < 0.04 else "stop",
        writer=method,
        model="SmolLM2-135M-Instruct",
        round=3,
        step=64,
        split=split,
        seed=seed,
        n_tokens=length + 6,
        rewards={} if direct else rewards,
    )


def history(rng, rounds=3):
    """Lines of a metrics.jsonl, as a MaRio run logs them."""
    lines = []
    for stage, steps in (("sft", 100), ("mario", 192)):
        for step in range(steps):
            line = {"stage": stage, "step": step, "loss": 2.4 * 0.985**step + rng.gauss(0.6, 0.08)}
            if stage == "mario":
                line |= {"kl": 0.002 * step + abs(rng.gauss(0, 0.02)), "nll": line["loss"]}
            lines.append(line)
    for r in range(rounds + 1):
        for reward in ("accuracy", "nrg", "plausibility", "diversity", "consistency"):
            scale = 100 if reward == "nrg" else 1
            mean = scale * (0.5 + 0.03 * r + rng.gauss(0, 0.01))
            row = {"round": r, "split": "dev", "reward": reward, **around(mean, 0.06 * scale)}
            lines.append({"stage": "mario/rounds", "step": 64 * r, **row})
        for reward, k in (("plausibility", 5), ("diversity", 5), ("correctness", 2)):
            counts = [rng.randint(30, 90) for _ in range(k)]
            if reward == "diversity":
                counts = [300 + r, 0, 0, 40, 18]
            row = {"round": r, "reward": reward, "counts": counts}
            lines.append({"stage": "mario/bins", "step": r, **row})
            lines += obedience_lines(reward, k, r, rng) if r else []
    return lines


def obedience_lines(reward, k, r, rng):
    rows = []
    for b in range(k):
        row = {"reward": reward, "bin": b, "bins": k, "round": r, "split": "dev", "n": 50}
        rows.append({**row, **around(0.75 - 0.05 * r * b / k + rng.gauss(0, 0.01), 0.05)})
    rows[-1]["gap"] = {**around(0.03 * r, 0.07), "p": 0.09 / r**2}
    return [{"stage": "mario/obedience", "step": 64 * r, **row} for row in rows]


def around(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def fake_run(n=40, seed=0, seeds=(0,)):
    """Results, attempts and questions of six methods, as a finished run holds them."""
    rng = random.Random(seed)
    by_split = {split: [question(i, split) for i in range(n)] for split in ("test", "unseen")}
    methods = {
        "majority answer": {
            s: {0: majority_attempts(qs, qs, split=s)} for s, qs in by_split.items()
        }
    }
    for method in SKILL:
        methods[method] = {
            split: {s: [attempt(q, method, split, s, rng) for q in qs] for s in seeds}
            for split, qs in by_split.items()
        }
    questions = {q.id: q for qs in by_split.values() for q in qs}
    pairs = [("MaRio", "SFT"), ("MaRio", "FILT-ACC"), ("MaRio", "majority answer")]
    meta = {
        "model": "SmolLM2-135M-Instruct",
        "seeds": list(seeds),
        "command": "rationalize demo --seed 0",
        "hardware": "2 CPU cores, bfloat16",
        "seconds": 812,
        "config": {"bins": 5, "beta": 0.1, "fit": {"learning_rate": 5e-5}},
    }
    results = summarise(methods, questions, REWARDS, DIAGNOSTICS, pairs=pairs, meta=meta)
    merge_log(results, history(rng))
    attempts = {
        m: [a for of in splits.values() for s in of.values() for a in s]
        for m, splits in methods.items()
    }
    return results, attempts, questions


def cards(dom):
    """Ids of the questions shown, in order."""
    shown = dom[dom.index('id="cards"') : dom.index('id="pages"')]
    return re.findall(r'<p class="where"><bdi dir="auto">([^<]*)</bdi>', shown)
