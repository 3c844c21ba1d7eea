"""The model card of an exported model: what it is, its numbers from results.json, and its limits.

Every number is from results.json; what is not known is named as unknown.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rationalize.answers import answer_label
from rationalize.evaluation.baselines import BETTER_READING, MAJORITY, reads_base_better
from rationalize.evaluation.harness import Asked, harness_command
from rationalize.evaluation.metrics import ACCURACY
from rationalize.evaluation.tables import (
    LEGEND,
    NONE,
    cells_of,
    differences,
    heading,
    metrics_of_split,
    show,
    show_interval,
    show_p,
    splits_of,
)
from rationalize.evaluation.warnings import warnings
from rationalize.records import Attempt, Question
from rationalize.sampling.config import SamplingConfig
from rationalize.templates import question_text
from rationalize.text import clipped, one_line, visible

_MARKDOWN = re.compile(r"([\\`*_\[\]|#~])")
_SAMPLES = 3
_LONGEST = 1000  # characters shown of a sample


@dataclass(frozen=True)
class CardFacts:
    """Facts for the card that results.json lacks."""

    method: str
    """This model's row of results.json."""
    seed: int
    """The model's seed; its row may be the mean of several."""
    verb: str
    """The method's name on the command line."""
    base: str
    """The base model's name."""
    base_id: str | None
    """Its id on the hub."""
    licence: str | None
    base_hash: str
    """SHA-256 of its weights."""
    source: str
    """Source of the training questions."""
    train: int
    """Number of training questions."""
    with_rationale: int
    """Number of training questions with a rationale."""
    asked: Asked
    baked: Mapping[str, int]
    """Control tokens in the chat template: reward -> bin."""
    guidance: float
    """Guidance weight of the control tokens in the evaluation."""
    sampling: SamplingConfig
    """Sampling settings of the evaluation."""
    decoder_only: bool
    packages: Mapping[str, str]
    """Package -> version."""


def model_card(
    results: Mapping[str, Any], facts: CardFacts, attempts: Sequence[Attempt],
    questions: Mapping[str, Question],
) -> str:  # fmt: skip
    """The card as Markdown with YAML front matter. `attempts` are the model's attempts at the
    evaluated questions; the first few are shown.
    """
    meta = results["meta"]
    splits = [s for s in splits_of(results) if facts.method in cells_of(results, s)]
    parts = [
        _front_matter(facts),
        f"# {_md(facts.method)}, from {_md(facts.base)}",
        f"A language model taught by `rationalize {facts.verb}` to "
        + ("answer" if facts.asked.mode == "answer" else "write a rationale and then the answer")
        + ". This card was written by the run that made the model; what was measured is from its "
        "`results.json`.",
        "## What it is",
        _facts_list(facts, meta),
        "## Numbers",
        "Mean over questions with 95 % interval (percentile bootstrap over questions); an "
        f"undefined score counts as the worst of its range. Written {_written(facts)}.",
    ]
    for split in splits:
        parts += [f"### {_md(split)}", _numbers(results, facts, split)]
        parts.append(_compared(results, facts, split))
    parts += ["## How to ask it", _usage(facts, splits)]
    if shown := attempts[:_SAMPLES]:
        title = f"The first {len(shown)} evaluated questions, with what it wrote:"
        parts += ["## Samples", title, *(_sample(a, questions[a.question_id]) for a in shown)]
    parts += ["## Limits", _limits(results, facts, splits)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(facts: CardFacts) -> str:
    fields: dict[str, Any] = {"library_name": "transformers"}
    fields["pipeline_tag"] = "text-generation" if facts.decoder_only else "text2text-generation"
    if facts.licence:
        fields["license"] = facts.licence
    if facts.base_id:
        fields["base_model"] = facts.base_id
    fields["tags"] = ["rationalize", "rationales", facts.verb]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=False)}---"


def _facts_list(facts: CardFacts, meta: Mapping[str, Any]) -> str:
    licence = _md(facts.licence) if facts.licence else "unknown: no card beside its weights"
    named = f" ({_md(facts.base_id)})" if facts.base_id else ""
    lines = [
        f"Base model: {_md(facts.base)}{named}, weights SHA-256 `{facts.base_hash[:16]}`",
        f"Licence of the base model: {licence}",
        f"Trained on: {facts.train} training questions of {_md(facts.source)}, "
        f"{facts.with_rationale} of them with a teacher's rationale; their licence is not recorded",
        f"Seed: {facts.seed}",
        f"Hardware: {_md(meta.get('hardware') or 'unknown')}",
    ]
    if meta.get("tuning"):
        lines.append(f"Tuning: {_md(meta['tuning'])}")
    if meta.get("seconds") is not None:
        lines.append(f"Time of the last start: {meta['seconds']:.0f} s")
    versions = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
    lines.append(f"Versions: {_md(versions)}")
    command = _block(str(meta.get("command") or "unknown"))
    return "\n".join(f"- {line}" for line in lines) + f"\n\nCommand:\n\n{command}"


def _numbers(results: Mapping[str, Any], facts: CardFacts, split: str) -> str:
    """The table of a split: every metric of the model beside the majority answer's."""
    cells, metrics = cells_of(results, split), results["metrics"]
    model, majority = cells[facts.method], cells.get(MAJORITY, {"metrics": {}})
    seeds = model["seeds"]
    several = len(seeds) > 1
    heads = ["metric", f"mean of seeds {', '.join(map(str, seeds))}" if several else "mean"]
    heads += [f"seed {facts.seed}, this model"] if several else []
    heads += ["questions", "majority answer"]
    rows = [heads, ["---"] * len(heads)]
    # the mean is over all seeds of the method; a further column has this model's own value
    for name in metrics_of_split(results, split):
        if name not in model["metrics"]:
            continue
        row, baseline = model["metrics"][name], majority["metrics"].get(name)
        of_seed = [show(row["seeds"][seeds.index(facts.seed)], metrics[name])] if several else []
        beside = show_interval(baseline, metrics[name]) if baseline else NONE
        mean = show_interval(row, metrics[name])
        rows.append([_md(heading(name, metrics[name])), mean, *of_seed, str(row["n"]), beside])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _compared(results: Mapping[str, Any], facts: CardFacts, split: str) -> str:
    """The paired differences in both accuracies between the model and other methods."""
    lines = []
    for (a, b), of in differences(results, split).items():
        cells = [
            f"{show_interval(row, results['metrics'][name], sign=True)}, "
            f"{show_p(row['p'])}/{show_p(row['p_holm'])}".replace("<", "&lt;")
            for name in ("accuracy", "stated_accuracy")
            if (row := of.get(name)) and facts.method in (a, b)
        ]
        if cells:
            lines.append(f"- {_md(a)} − {_md(b)}: {'; stated '.join(cells)}")
    if not lines:
        return ""
    legend = LEGEND.partition(" (")[0]
    if reads_base_better(results["comparisons"], split):
        lines += ["", BETTER_READING]
    return "\n".join([f"Paired differences in accuracy %, {legend}:", "", *lines])


def _written(facts: CardFacts) -> str:
    """Decoding settings of the evaluated replies."""
    sampling = facts.sampling
    how = "greedily" if sampling.greedy else f"at temperature {sampling.temperature:g}"
    text = f"{how}, at most {sampling.max_new_tokens} tokens"
    if facts.guidance:
        text += f", with guidance {facts.guidance:g}, which `generate` of transformers lacks"
    return text


def _usage(facts: CardFacts, splits: Sequence[str]) -> str:
    if facts.asked.templated:
        how = (
            "Prompts go through the chat template in this folder: "
            "`tokenizer.apply_chat_template(messages, add_generation_prompt=True)`."
        )
    elif facts.decoder_only:
        how = "Prompts are plain text that ends in a line break."
    else:
        how = "Prompts are plain text for the encoder."
    if facts.baked:
        bins = ", ".join(f"{name}={bin}" for name, bin in facts.baked.items())
        where = (
            "the chat template puts them before the response"
            if facts.decoder_only
            else "give `generate` the `decoder_prefix` of `rationalize.json` as `decoder_input_ids`"
        )
        how += (
            f" The numbers were reached under control tokens for {_md(bins)} (0 is best): {where}."
        )
    command = harness_command(splits, facts.asked)
    return (
        f"{how} The prompt is the question, its lettered choices and an instruction, as in "
        f"`../lm_eval/`. From the run's folder:\n\n"
        f"{_block(f'rationalize ask --model . QUESTION --choices A B{chr(10)}{command}')}"
    )


def _sample(attempt: Attempt, question: Question) -> str:
    right = "right" if ACCURACY.value(attempt, question) == 1.0 else "wrong"
    gold = answer_label(question.answer, question.choices)
    text = f"{question_text(question)}\n\n{attempt.completion}\n\n[{right}; the answer is {gold}]"
    return _block(clipped(text, _LONGEST))


def _limits(results: Mapping[str, Any], facts: CardFacts, splits: Sequence[str]) -> str:
    starts = (f"{facts.method} on ", *(f"{split}: " for split in splits))
    lines = [text for text in warnings(results) if text.startswith(starts)]
    cell = cells_of(results, splits[0])[facts.method] if splits else {"seeds": [facts.seed]}
    if len(cell["seeds"]) == 1:
        lines.append("One seed: the intervals say nothing of how another seed would do.")
    lines += [
        "It was measured on the questions above, and on no others.",
        "Nothing here says that a rationale is faithful: that it is why the model answers so.",
        "What it writes was not checked for safety.",
    ]
    if facts.licence is None:
        lines.append("The base model's licence is not known here; look it up before you share it.")
    return "\n".join(f"- {_md(line)}" for line in lines)


def _md(text: str) -> str:
    """Any text as one line of Markdown that shows it literally."""
    return _MARKDOWN.sub(r"\\\1", html.escape(one_line(text), quote=False))


def _block(text: str) -> str:
    """Any text as a block of code; its fence is longer than any in the text."""
    text = visible(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
