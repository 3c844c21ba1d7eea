"""One MaRio learning step against a plain transcription of the released one, in one run.

    python benchmarks/mario_step.py --model tiny-t5
    python benchmarks/mario_step.py --model default --steps 5

The transcription does, in plain PyTorch and transformers, every pass that the released step does
(docs/methods/mario.md lists what differs): texts tokenised anew at every visit; forward
passes with labels, hence a cross-entropy nobody uses; logits of the whole vocabulary at every
position; NLL and entropy of policy and of reference, the entropy at coefficient 0; two softmaxes
for the KL, and two again with gradient tracking for the statistics; the batch detokenised for a
log; float32; Adam as a loop over parameters. It is kinder than the original in two ways: it has the
fast tokenizer, and no batch is rebuilt by worker processes.

Both learn the same rows, in turn, in one process. The first steps are not timed: there both use one
vocabulary, and in float32 their losses must agree, after each other's updates too. Afterwards the
transcription's NLL and entropy run over all rows of the matrix, as the released ones do. `auto` is
our step as it ships, in bfloat16 where the processor computes in it; `float32` is our step in the
transcription's precision: what is left of the ratio there comes from passes, the rest from
precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rationalize.models.forward import padded
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers
from rationalize.questions import load_splits
from rationalize.records import Attempt
from rationalize.runs import Run, Stage
from rationalize.sampling.writing import teacher_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import quark

BINS = {"consistency": 5, "correctness": 2, "plausibility": 5, "diversity": 5}
BETA, LEARNING_RATE, BETAS, MAX_NORM = 0.1, 3e-5, (0.9, 0.99), 1.0  # of the released command
CHECKED = 3
"""Untimed steps at the start, whose losses are compared."""

Visit = tuple[Attempt, dict[str, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="both", help="tiny-t5, both, or what load_policy takes")
    parser.add_argument("--steps", type=int, default=0, help="0: 30 on the tiny T5, else 5")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--questions", default="builtin")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor seconds of this process, for a machine that others use too",
    )
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    pool = visits(args.questions)
    for model in ("tiny-t5", "default") if args.model == "both" else (args.model,):
        steps = args.steps or (30 if model == "tiny-t5" else 5)
        with tempfile.TemporaryDirectory() as folder:
            source = tiny_t5(Path(folder)) if model == "tiny-t5" else model
            rows = {
                precision: compare(source, pool, precision, steps, args.batch_size, clock)
                for precision in ("auto", "float32")
            }
        result = {
            "model": model,
            "batch_size": args.batch_size,
            "steps": steps,
            **rows,
            "ratio": rows["auto"]["ratio"],
            "of_which_passes": rows["float32"]["ratio"],
            "of_which_precision": rows["auto"]["ratio"] / rows["float32"]["ratio"],
            "clock": args.clock,
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(result, indent=1), flush=True)


def compare(
    source: str | Path,
    pool: Sequence[Visit],
    precision: Literal["auto", "float32"],
    steps: int,
    batch_size: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Seconds per step of both, the median of their ratios, and how far their losses are apart."""
    policy = load_policy(source, numbers=Numbers(precision), device="cpu")
    reference = copy.deepcopy(policy.model)
    policy.add_controls(BINS)
    released = ReleasedStep(policy, reference)
    was = policy.become_reference()
    maker = RowMaker(policy)
    theirs: list[float] = []
    ours: list[float] = []
    their_losses: list[float] = []
    started = 0.0

    def batch_of(step: int) -> list[Visit]:
        """The checked steps share a batch, so that its loss shows their updates."""
        return [
            pool[i] for i in shuffled_passes(len(pool), batch_size, max(0, step - CHECKED + 1), 0)
        ]

    def before_step(step: int) -> None:
        nonlocal started
        batch = batch_of(step)
        began = clock()
        their_losses.append(released.step(batch, one_vocabulary=step < CHECKED))
        started = clock()
        theirs.append(started - began)

    def after_step(step: int) -> None:
        ours.append(clock() - started)

    config = FitConfig(
        learning_rate=LEARNING_RATE, max_grad_norm=MAX_NORM, batch_size=batch_size,
        schedule="constant", warmup=0.0,
    )  # fmt: skip
    never = {"checkpoint_every": float("inf")}
    with tempfile.TemporaryDirectory() as folder, Run.open(folder, never) as run:
        fit(
            policy, quark(was, beta=BETA, alpha=0.0, direction="reverse"),
            lambda step: [maker.attempt(attempt, bins) for attempt, bins in batch_of(step)], config,
            Stage(run, "mario"), steps=CHECKED + steps, before_step=before_step,
            after_step=after_step,
        )  # fmt: skip
        our_losses = [line["loss"] for line in run.metrics("mario")]
    gap = max(abs(a - b) for a, b in zip(our_losses[:CHECKED], their_losses, strict=False))
    if precision == "float32" and gap > 1e-3:
        raise SystemExit(f"the losses differ by {gap}: {our_losses} and {their_losses}")
    rows = [maker.attempt(*visit) for step in range(steps) for visit in batch_of(CHECKED + step)]
    return {
        "ratio": statistics.median(t / o for t, o in zip(theirs[CHECKED:], ours[CHECKED:])),
        "seconds": {
            "ours": statistics.median(ours[CHECKED:]),
            "transcription": statistics.median(theirs[CHECKED:]),
        },
        "largest_loss_difference": gap,
        "checked_losses": their_losses[:CHECKED],
        "prompt_tokens": statistics.mean(len(r.prompt_ids) for r in rows),
        "response_tokens": statistics.mean(len(r.response_ids) for r in rows),
    }


class ReleasedStep:
    """Reward-conditioned learning as released, on an encoder-decoder or (prompt, control tokens,
    response in this order, prompts padded on the left) on a decoder.
    """

    def __init__(self, policy: Policy, reference: Any) -> None:
        self.policy = policy
        self.model = copy.deepcopy(policy.model)
        self.reference = reference
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, betas=BETAS)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.log: dict[str, Any] = {}

    def step(self, batch: Sequence[Visit], *, one_vocabulary: bool) -> float:
        policy = self.policy
        prompts = [policy.encode_prompt(attempt.prompt) for attempt, _ in batch]
        responses = [policy.encode_response(attempt.completion) for attempt, _ in batch]
        controls = [policy.controls.prefix(bins) for _, bins in batch]
        _, mask = padded(responses, policy)
        words = policy.n_vocab if one_vocabulary else None

        own = self._forward(self.model, prompts, controls, responses, words)
        with torch.no_grad():
            other = self._forward(self.reference, prompts, [()] * len(batch), responses, words)
        logits, reference_logits = (
            out["logits"][..., : policy.n_vocab] for out in (own, other)
        )  # (B, T, V)
        nll = -masked_mean(own["logprobs"], mask)
        kl = masked_mean(kl_per_token(logits, reference_logits), mask)
        entropy = masked_mean(own["entropy"], mask)
        label = -(own["logprobs"][:, -2]).mean()
        loss = nll + BETA * kl - 0.0 * entropy + 0.0 * label

        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.scheduler.step()

        statistics_kl = kl_per_token(logits, reference_logits)  # with its graph, and without a use
        self.log = {
            "kl": (statistics_kl * mask).sum(1).mean().item(),
            "entropy": (own["entropy"] * mask).sum(1).mean().item(),
            "reference_entropy": (other["entropy"] * mask).sum(1).mean().item(),
            "nll": nll.item(),
            "reference_nll": -masked_mean(other["logprobs"], mask).item(),
            "loss": loss.item(),
            "prompts": [policy.tokenizer.decode(ids) for ids in prompts],
            "responses": [policy.tokenizer.decode(ids) for ids in responses],
        }
        return self.log["loss"]

    def _forward(self, model, prompts, controls, responses, words: int | None) -> dict[str, Tensor]:
        """Logits (B, T, V) of every response position, log-probabilities and entropies (B, T)."""
        policy = self.policy
        targets, mask = padded(responses, policy)
        if policy.is_encoder_decoder:
            ids, prompt_mask = padded(prompts, policy)
            labels, written = padded([[*c, *r] for c, r in zip(controls, responses)], policy)
            labels = labels.masked_fill(written == 0, -100)
            out = model(input_ids=ids, attention_mask=prompt_mask, labels=labels)
            logits = out.logits[:, len(controls[0]) :]
        else:
            before, before_mask = left_padded([[*p, *c] for p, c in zip(prompts, controls)], policy)
            ids = torch.cat([before, targets], 1)
            ids_mask = torch.cat([before_mask, mask], 1)
            labels = ids.masked_fill(ids_mask == 0, -100)
            labels[:, : before.shape[1]] = -100
            positions = (ids_mask.cumsum(1) - 1).clamp(min=0)
            out = model(
                input_ids=ids, attention_mask=ids_mask, position_ids=positions, labels=labels
            )
            logits = out.logits[:, before.shape[1] - 1 : -1]
        logits = logits[..., :words]
        own = torch.log_softmax(logits, -1).gather(2, targets[..., None])[..., 0]
        log_p = torch.log_softmax(logits, -1)
        return {"logits": logits, "logprobs": own, "entropy": -(log_p.exp() * log_p).sum(-1)}


def kl_per_token(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(policy || reference), shape (B, T)."""
    return F.kl_div(
        torch.log_softmax(reference_logits, -1), torch.softmax(logits, -1), reduction="none"
    ).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over the tokens of a batch."""
    return (values * mask).sum() / mask.sum()


def left_padded(sequences: Sequence[Sequence[int]], policy: Policy) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (B, L), with the padding in front."""
    ids, mask = padded([s[::-1] for s in sequences], policy)
    return ids.flip(1), mask.flip(1)


def visits(questions: str) -> list[Visit]:
    """The teacher's attempts, each with a bin of every reward."""
    rng = np.random.default_rng(0)
    attempts = teacher_attempts(load_splits(questions)["train"], "all")
    return [(a, {name: int(rng.integers(k)) for name, k in BINS.items()}) for a in attempts]


def tiny_t5(folder: Path) -> Path:
    """A randomly initialised T5 with the released one's vocabulary: 32,100 pieces, 32,128 rows.

    Its tokenizer learns what the built-in questions need; the other pieces are never used.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=32_100,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{a.prompt} {a.completion}" for a, _ in visits("builtin")]
    pieces.train_from_iterator(texts, trainer)
    learned = json.loads(pieces.to_str())
    vocabulary = learned["model"]["vocab"]
    for i in range(len(vocabulary), 32_100):
        vocabulary[f"unused{i}"] = i
    pieces = Tokenizer.from_str(json.dumps(learned))
    pieces.decoder = decoders.ByteLevel()
    pieces.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32_128, d_model=64, d_kv=16, d_ff=256, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
