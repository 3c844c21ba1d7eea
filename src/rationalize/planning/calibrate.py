"""A calibration: a few timed decode steps, learning steps and scoring passes with the actual model,
at the lengths of the actual questions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from rationalize.methods.settings import RunConfig
from rationalize.methods.train_scorers.verifier import StatementTag, statement_loss
from rationalize.methods.work.parts import Learns, Reads, Work, Writes
from rationalize.methods.work.scene import Lengths
from rationalize.models.choices import ChoiceScorer, Continuation
from rationalize.models.forward import Row
from rationalize.models.freezing import freeze_lower
from rationalize.models.heads import attached, new_head, reply_scores
from rationalize.models.policy import Policy
from rationalize.models.read_only import read_only, under_adapters
from rationalize.models.scorers import label_ids
from rationalize.models.variants import Variants
from rationalize.planning.sizes import resident, sizes_of
from rationalize.planning.speeds import Measured, Speeds, kind_of
from rationalize.progress import hushed, say
from rationalize.records import Question
from rationalize.runs import Run, Stage
from rationalize.sampling.batches import MAX_ROWS
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import question_seed
from rationalize.templates import prompt_text
from rationalize.training import objectives
from rationalize.training.loop import FitConfig, HeadFitConfig, fit

FEW, MANY = 4, 48
"""Rows of the two timed batches that replies are written in."""
DECODED = 8
"""Decode steps of each."""
TOKENS = 256
"""Tokens of a timed pass that learns, about: as many rows as that holds, one at least."""
READ = 1024
"""Of one that only reads."""

Rows = Sequence[Row]
Clock = Callable[[], float]


def calibrate(
    config: RunConfig, questions: Sequence[Question], work: Sequence[Work],
    known: Measured | None = None, *, clock: Clock = time.monotonic,
) -> Measured:  # fmt: skip
    """What is `known`, and the speeds of the work that it lacks, by a clock in seconds."""
    lacking = (known.speeds if known else Speeds()).lacks(work)
    if known and not lacking:
        return known
    say(f"calibrating on {config.model}: {', '.join(map(kind_of, lacking)) or 'sizes'}")
    started = clock()
    with hushed():
        before = resident()
        policy = config.load_policy()
        load = clock() - started
        if known is None:
            sizes = sizes_of(policy, process=before)
            known = Measured(Speeds(load=load), sizes, _lengths(policy, questions))
            known = known.with_speeds(store=_store(policy, clock))
        prompts = [prompt_text("rationale_answer", q) for q in questions]
        for one in lacking:
            if isinstance(one, Writes):
                known = known.with_speeds(**_writing(policy, prompts, one, clock))
        for one in lacking:
            if isinstance(one, Reads):
                speed = _reading(policy, one, clock)
                known = known.with_speeds(read={**known.speeds.read, one.reader: speed})
        for one in sorted((o for o in lacking if isinstance(o, Learns)), key=_last):
            learner = policy if one.learner == "policy" else _learner(config, one)
            pair = _learning(learner, one, clock)
            known = known.with_speeds(learn={**known.speeds.learn, kind_of(one): pair})
    say(f"calibrated in {clock() - started:.0f} s")
    return known


def _last(one: Learns) -> bool:
    """A reference is made of the policy last: under LoRA that merges its adapter."""
    return one.loss == "quark"


def _lengths(policy: Policy, questions: Sequence[Question]) -> Lengths:
    texts = [prompt_text("rationale_answer", q) for q in questions[:32]]
    ids = [len(policy.encode_response(text, eos=False)) for text in texts]
    around = [len(policy.encode_prompt(text)) - n for text, n in zip(texts, ids, strict=True)]
    return Lengths(sum(map(len, texts)) / sum(ids), sum(around) / len(around))


def _store(policy: Policy, clock: Clock) -> float:
    """Seconds to write as many bytes as a model has, from a part of them."""
    weights = policy.model.get_input_embeddings().weight
    part = weights.detach()[: max(1, 2**24 // weights.shape[1])].contiguous()
    with tempfile.TemporaryDirectory() as folder:
        from safetensors.torch import save_file

        started = clock()
        save_file({"part": part}, Path(folder) / "part.safetensors")
    share = part.nbytes / sum(p.nbytes for p in policy.model.parameters())
    return (clock() - started) / share


def _writing(
    policy: Policy, prompts: Sequence[str], work: Writes, clock: Clock
) -> dict[str, float]:
    """Of the largest writing: of a prompt's token, a decode step, a row in it."""
    started = clock()
    sampler = Sampler(policy)
    made = clock() - started
    few, many = min(FEW, len(prompts)), min(MANY, max(FEW + 1, work.replies))
    asked = prompts[:few]
    timed = [
        _decode(sampler, asked, -(-rows // few), work, clock) for rows in (FEW, FEW, many)
    ]  # the first warms up
    (_, small, r_small), (_, large, r_large) = timed[1], timed[2]
    row = max((large - small) / max(1.0, r_large - r_small), 0.05 * large / r_large)
    read = sum(len(policy.encode_prompt(p)) for p in asked)
    return {
        "prefill": timed[1][0] / read, "step": max(small - row * r_small, 0.0), "row": row,
        "rows": MAX_ROWS, "sampler": made,
    }  # fmt: skip


def _decode(
    sampler: Sampler, prompts: Sequence[str], n: int, work: Writes, clock: Clock
) -> tuple[float, float, float]:
    """Seconds until the first token, seconds of a step after it, and its mean rows."""
    config = SamplingConfig(top_p=work.top_p, max_new_tokens=DECODED + 1, n=n)
    stamps = [(clock(), 0)]
    sampler.sample(
        prompts, config, seeds=[question_seed(0, p) for p in prompts],
        progress=lambda done, total, tokens: stamps.append((clock(), tokens)),
    )  # fmt: skip
    times, counts = zip(*stamps, strict=True)
    steps = max(1, len(times) - 2)
    rows = (counts[-1] - counts[1]) / steps or n * len(prompts)
    return times[1] - times[0], (times[-1] - times[1]) / steps, rows


def _learner(config: RunConfig, work: Learns) -> Policy:
    """A scorer, or an adapter over frozen weights."""
    if work.learner == "scorer":
        policy = config.load_policy(style="plain", quantise=False)
        freeze_lower(policy, 0.5, halve=policy.precision != "float32")
        return policy
    base = config.load_policy(tuning="full")
    variants = Variants.of(under_adapters(base), Path(), ["timed"])
    with variants.active("timed") as policy:
        return policy


def _learning(policy: Policy, work: Learns, clock: Clock) -> tuple[float, float]:
    """Seconds of a token, and of a step whatever its tokens, from steps of two sizes."""
    longest = work.prompt + work.reply
    groups = max(1, round(min(TOKENS, work.rows * longest) / (longest * work.together)))
    scalar_head = new_head(policy) if work.loss in ("rank", "ppo") else None
    small, large = (_rows(policy, work, n) for n in (1, 1 + groups))
    loss = _objective(policy, work, scalar_head)
    batches, stamps = [small, large, small, large], []

    def stamp(step: int) -> None:
        stamps.append(clock())

    config: FitConfig = FitConfig(learning_rate=1e-6, micro_tokens=work.micro_tokens)
    if scalar_head is not None:
        config = HeadFitConfig(learning_rate=1e-6, micro_tokens=work.micro_tokens)
    with (
        tempfile.TemporaryDirectory() as folder,
        Run.open(folder, {"checkpoint_every": float("inf")}) as run,
        attached(policy, scalar_head) if scalar_head is not None else nullcontext(),
    ):
        fit(
            policy, loss, lambda step: batches[step], config, Stage(run, "timed"),
            steps=len(batches), before_step=stamp, after_step=stamp,
        )  # fmt: skip
    seconds = [stamps[2 * i + 1] - stamps[2 * i] for i in range(len(batches))]
    tokens = [sum(row.length for row in rows) for rows in (small, large)]
    big, least = min(seconds[1], seconds[3]), seconds[2]
    per_token = (big - least) / (tokens[1] - tokens[0])
    per_token = min(max(per_token, 0.2 * big / tokens[1]), big / tokens[1])
    return per_token, max(0.0, big - per_token * tokens[1])


def _ids(policy: Policy, count: float, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    count = max(1, round(count))
    return tuple(torch.randint(10, policy.n_vocab, (count,), generator=generator).tolist())


def _rows(policy: Policy, work: Learns, groups: int) -> list[Row]:
    """Rows of random tokens: of a group, `together` replies to one prompt."""
    rows = []
    yes = label_ids(policy)[0] if work.loss == "statements" else None
    for group in range(groups):
        prompt = _ids(policy, work.prompt, group)
        for place in range(work.together):
            reply = (yes,) if yes is not None else _ids(policy, work.reply, 1000 + place)
            rows.append(Row(prompt, reply, tag=_tag(work, group, place, len(reply))))
    return rows


def _tag(work: Learns, group: int, place: int, length: int) -> Any:
    zeros = torch.zeros(length)
    if work.loss == "dpo":
        return objectives.PairTag(group, place == 0, -10.0)
    if work.loss == "rank":
        right = place < work.together / 2
        worse = tuple(range(place + 1, work.together)) if right else ()
        return objectives.RankTag(group, place, worse[:4], right)
    if work.loss == "grpo":
        return objectives.GroupTag(zeros - 2.0, zeros - 2.0, 1.0)
    if work.loss == "ppo":
        return objectives.RolloutTag(zeros - 2.0, zeros, zeros + 1.0, zeros + 1.0)
    return StatementTag(group, place == 0) if work.loss == "statements" else None


def _objective(policy: Policy, work: Learns, scalar_head: Any) -> Any:
    if work.loss == "quark":
        reference = policy.become_reference()
        return objectives.quark(reference, beta=0.1, alpha=0.0, direction="reverse")
    made: dict[str, Callable[[], Any]] = {
        "dpo": lambda: objectives.dpo(beta=0.1),
        "rank": lambda: objectives.rank(scalar_head),
        "grpo": lambda: objectives.grpo(clip=0.2, beta=0.04),
        "ppo": lambda: objectives.ppo(
            scalar_head, clip=0.2, value_clip=0.2, value_weight=0.1, detach_value=True
        ),
        "statements": lambda: statement_loss(policy, 1.0),
    }
    return made.get(work.loss, lambda: objectives.nll)()


@torch.no_grad()
def _reading(policy: Policy, work: Reads, clock: Clock) -> float:
    """Seconds of a token of a prompt or what follows it, in passes of a usual size."""
    length = work.prompt + work.reply
    count = max(2, round(READ / length))
    rows = [
        Row(_ids(policy, work.prompt, i), _ids(policy, work.reply, 500 + i)) for i in range(count)
    ]
    with _reader(policy, work) as read:
        read(rows)  # warms up: kernels are made for every new size
        started = clock()
        read(rows)
    return (clock() - started) / sum(row.length for row in rows)


@contextmanager
def _reader(policy: Policy, work: Reads) -> Iterator[Callable[[Rows], Any]]:
    """What a stage of the kind does with rows."""
    if work.reader == "logprobs":
        yield lambda rows: objectives.response_logprobs(policy, rows, FitConfig())
    elif work.reader == "rank":
        scalar_head = new_head(policy)

        def scores(rows: Rows) -> Any:
            with policy.autocast():
                return reply_scores(policy, scalar_head, rows)

        yield scores
    else:
        scorer = ChoiceScorer(read_only(policy.frozen(half=False)))
        parts = 2 if work.reader == "choices" else 1

        def likelihoods(rows: Rows) -> Any:
            return scorer.score_ids([c for row in rows for c in _continuations(row, parts)])

        yield likelihoods


def _continuations(row: Row, parts: int) -> list[Continuation]:
    """A row's reply, cut into as many choices after its prompt."""
    cut = -(-len(row.response_ids) // parts)
    pieces = [row.response_ids[i : i + cut] for i in range(0, len(row.response_ids), cut)]
    return [Continuation(row.prompt_ids, piece) for piece in pieces]
