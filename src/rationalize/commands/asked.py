"""The questions that `sample` and `evaluate` ask, and those that are shown or compared with.

A folder, a set or a hub id has splits. A single file has none: it is asked whole, unless `--split`
names a part, which is then cut from it as a training run cuts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rationalize.errors import UsageError
from rationalize.records import Question

if TYPE_CHECKING:
    from rationalize.runs import Run


def split_of(config: Any) -> str:
    """The split that is asked; also what the attempts at a whole file are filed under."""
    return config.split or config.DEFAULT_SPLIT


def is_part(config: Any) -> bool:
    """Whether a part of a single file is asked."""
    return Path(config.questions).is_file() and (
        config.split is not None or _cut_by_the_run(config)
    )


def asked_questions(config: Any) -> list[Question]:
    """The questions to ask, at most `limit`."""
    from rationalize.questions import load_questions

    split = split_of(config)
    if not is_part(config):
        return load_questions(config.questions, split, limit=config.limit, **_reading(config))
    splits = _parts(config)
    if split not in splits:
        raise UsageError(
            f"--split {split}: {config.questions} is one file, of which a part is "
            f"{', '.join(splits)}; leave --split out to ask all of it"
        )
    return splits[split][: config.limit]


def shown_questions(config: Any) -> list[Question]:
    """The train questions that `--shots` chooses from."""
    from rationalize.questions import load_questions

    if is_part(config):
        return _parts(config)["train"]
    return load_questions(config.questions, "train", **_reading(config))


def evaluated_questions(config: Any) -> tuple[list[Question], list[Question]]:
    """The questions to evaluate, and the training questions. Raises where the two overlap."""
    from rationalize.questions import check_overlap

    questions, train, split = asked_questions(config), _train_questions(config), split_of(config)
    if split != "train":
        check_overlap({"train": train, split: questions})
    return questions, train


def trained_run(config: Any) -> Run | None:
    """The run that wrote the model, where `model` is a run's folder or holds weights of one."""
    from rationalize.runs import Run

    if config.server is not None:  # `model` is a name on the server
        return None
    if (Path(config.model) / "config.yaml").is_file():
        return Run.read(config.model)
    if not (Path(config.model) / "rationalize.json").is_file():
        return None
    above = Path(config.model).resolve().parents[:2]  # of RUN/model and RUN/policies/NAME
    runs = (p for p in above if (p / "config.yaml").is_file() and (p / "env.json").is_file())
    return next(map(Run.read, runs), None)


def _cut_by_the_run(config: Any) -> bool:
    """Whether `evaluate` is given the one file that the model's run has cut into its splits."""
    if not hasattr(config, "train") or (run := trained_run(config)) is None:
        return False
    return _of_the_run(config, run)


def _train_questions(config: Any) -> list[Question]:
    """`train` if given, else the questions that the model's run was trained on, else the train
    split beside the questions, if there is one.
    """
    from rationalize.questions import load_questions, load_splits
    from rationalize.questions.files import has_split

    if config.train:
        columns, skip = config.columns or None, config.skip_bad_rows
        return load_questions(config.train, columns=columns, skip_bad_rows=skip)
    if (run := trained_run(config)) and "questions" in run.config:
        return load_splits(
            run.config["questions"], columns=run.config.get("columns") or None,
            skip_bad_rows=run.config.get("skip_bad_rows"),
        )["train"]  # fmt: skip
    source = Path(config.questions)
    whole = source.is_file() and not is_part(config)
    if whole or (source.is_dir() and not has_split(source, "train")):
        return []
    return shown_questions(config)


def _parts(config: Any) -> dict[str, list[Question]]:
    from rationalize.questions import load_splits

    return load_splits(config.questions, **_reading(config))


def _reading(config: Any) -> Mapping[str, Any]:
    """How the questions are read: of those that the model's run was given, as the run read them."""
    columns = config.columns or None
    if columns is None and (run := trained_run(config)) and _of_the_run(config, run):
        columns = run.config.get("columns") or None
    return {"columns": columns, "skip_bad_rows": config.skip_bad_rows}


def _of_the_run(config: Any, run: Run) -> bool:
    given, source = Path(str(run.config.get("questions", ""))), Path(config.questions)
    return given == source or (given.exists() and source.exists() and given.samefile(source))
