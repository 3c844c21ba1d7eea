"""A split as a task of lm-evaluation-harness, which asks an exported model the same questions.

    cd RUN
    lm_eval --model hf --model_args pretrained=model --include_path lm_eval --tasks rationalize_test

The format is that of the harness's `docs/task_guide.md`. Its verdict differs from ours in two
cases: a choice named by its text counts as wrong (we accept it), and a free-form answer must be the
same text except for case, commas and `$` (we also compare numbers).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rationalize.answers import MARKER, answer_label
from rationalize.files import write_text
from rationalize.records import Question
from rationalize.sampling.config import SamplingConfig
from rationalize.templates import prompt_text
from rationalize.text import escaped_json

FOLDER = "lm_eval"

_LAST = rf"(?is)(?<![a-z]){MARKER}(?![a-z])(?!.*(?<![a-z]){MARKER}(?![a-z])):?\s*"
"""The last answer sentence: the one that counts."""
_LETTER = r"(?:\(\s*([a-z])\s*\)|([a-z])(?:[).,:;]|\s*\Z))"
_TEXT = r"([^\n]*?)\.?\s*(?:\n|\Z)"


@dataclass(frozen=True)
class Asked:
    """The format in which a model reads prompts."""

    mode: str
    """`rationale_answer` or `answer`."""
    templated: bool
    """Whether prompts go through a chat template: the model's, or one with its control tokens."""
    line_break: bool
    """Whether a plain prompt ends in a line break (decoder-only models)."""
    stop: str
    """Text of the model's end token."""
    more_stops: tuple[str, ...] = ()
    """Texts of further tokens that end a reply."""


def task_name(split: str) -> str:
    """The name of a split for `--tasks`."""
    return "rationalize_" + "".join(c if c.isalnum() and c.isascii() else "_" for c in split)


def harness_command(splits: Sequence[str], asked: Asked) -> str:
    """The command that starts the harness, to be run in the run's folder."""
    template = " --apply_chat_template" if asked.templated else ""
    tasks = ",".join(map(task_name, splits))
    return (
        f"lm_eval --model hf --model_args pretrained=model --include_path {FOLDER} "
        f"--tasks {tasks}{template}"
    )


def harness_task(
    questions: Sequence[Question], split: str, asked: Asked, sampling: SamplingConfig
) -> dict[str, Any]:
    """The fields of the task's YAML file; its rows are those of `harness_rows`."""
    decoding: dict[str, Any] = {"do_sample": False}
    if not sampling.greedy:
        decoding = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    # what is read: the letter of a choice or a free-form text; after the last answer sentence, or
    # from the beginning where the reply is the answer alone
    reading = _LETTER if all(q.choices for q in questions) else _TEXT
    lead = _LAST if asked.mode == "rationale_answer" else r"(?is)\A\s*"
    return {
        "task": task_name(split),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{FOLDER}/{task_name(split)}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{target}}",
        "generation_kwargs": {
            "until": [asked.stop, *asked.more_stops],
            "max_gen_toks": sampling.max_new_tokens, **decoding,
        },
        "filter_list": [
            {
                "name": "last-answer",
                "filter": [
                    {"function": "regex", "regex_pattern": lead + reading, "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {
                "metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                "ignore_case": True, "ignore_punctuation": False,
                "regexes_to_ignore": [",", r"\$", "[()]"],
            }
        ],
        "metadata": {"version": 1.0},
    }  # fmt: skip


def harness_rows(questions: Sequence[Question], asked: Asked) -> list[dict[str, Any]]:
    """A row per question: `id`, the whole `prompt`, as `target` the right letter or the answer."""
    end = "\n" if asked.line_break and not asked.templated else ""
    return [
        {
            "id": q.id, "prompt": prompt_text(asked.mode, q) + end,
            "target": answer_label(q.answer, q.choices).strip("()") if q.choices else q.answer,
        }
        for q in questions
    ]  # fmt: skip


def write_harness_tasks(
    run: Path, splits: Mapping[str, Sequence[Question]], asked: Asked, sampling: SamplingConfig
) -> None:
    """Write a task and its questions per split to `RUN/lm_eval/`."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for split, questions in splits.items():
        task = harness_task(questions, split, asked, sampling)
        rows = [json.dumps(row, ensure_ascii=False) for row in harness_rows(questions, asked)]
        lines = "".join(escaped_json(row) + "\n" for row in rows)
        write_text(folder / f"{task_name(split)}.jsonl", lines)
        head = f"# In the run's folder: {harness_command([split], asked)}\n"
        text = yaml.safe_dump(task, sort_keys=False, allow_unicode=True, width=1000)
        write_text(folder / f"{task_name(split)}.yaml", head + text)
