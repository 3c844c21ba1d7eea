"""`study`: a blinded human evaluation, from its design to its results."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from rationalize.commands.output_file import OutputFile
from rationalize.config.checks import LARGEST_SEED, at_least, between
from rationalize.errors import UsageError, UserError
from rationalize.sampling.config import HttpConfig
from rationalize.text import one_line, whole_characters

if TYPE_CHECKING:
    from rationalize.study.design import Study
    from rationalize.study.store import Store

Folder = Annotated[Path, Positional, arg(metavar="DIR")]


@dataclass(frozen=True)
class NewConfig:
    """Design a study: which rationales stand side by side, and what is asked about them."""

    folder: Folder
    """Folder of the study, which is new or empty."""
    sources: tuple[str, ...]
    """Evaluated runs, or files that `score` or `sample` wrote (each file is one method)."""
    methods: tuple[str, ...] = ()
    """Methods to compare, under the names that tables have; none: all with rationales."""
    split: str | None = None
    """Questions of this split of the runs; none: their first (test before others)."""
    ask: str = "mario"
    """`mario` (plausibility, consistency and the better one), `better`, or a YAML file of your
    questions.
    """
    consent: Path | None = None
    """Text that annotators must agree to; none: the YAML file's, or a general one."""
    items: int = 60
    """Comparisons, spread evenly over questions and pairs of methods."""
    per_annotator: int | None = None
    """Comparisons that each annotator gets; none: all."""
    attention_checks: int = 2
    """Items that only tell whether texts are read, for each annotator."""
    max_failed_checks: int = 1
    """Annotators who fail more attention checks are left out of results."""
    show_answer: bool = True
    """Show annotators the correct answer, as MaRio's study does."""
    annotators: tuple[str, ...] = ()
    """Names of those invited now; `study invite` invites more."""
    seed: int = 0
    """Seed of the choice of items, their order and their sides."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for files of another shape: our field -> theirs."""

    def __post_init__(self) -> None:
        at_least(self, 1, "items", "per_annotator")
        at_least(self, 0, "attention_checks", "max_failed_checks")
        between(self, 0, LARGEST_SEED, "seed")


@dataclass(frozen=True)
class InviteConfig:
    """Personal links for further annotators."""

    folder: Folder
    """Folder of the study."""
    annotators: tuple[str, ...]
    """Their names, which only you see."""
    renew: bool = False
    """New links for annotators who have one; the old links end, their votes stay."""


@dataclass(frozen=True)
class ServeConfig:
    """Serve a study to its annotators until Ctrl-C."""

    folder: Folder
    """Folder of the study."""
    host: str = "127.0.0.1"
    """Address to listen at; another than this machine's loopback is warned about."""
    port: int = 8765
    """Port; 0: any that is free."""

    def __post_init__(self) -> None:
        between(self, 0, 65535, "port")


@dataclass(frozen=True)
class ResultsConfig:
    """What a study says so far: printed, and in its results.json and report.html."""

    folder: Folder
    """Folder of the study."""


@dataclass(frozen=True)
class ExportVotesConfig:
    """Votes in other tools' formats."""

    folder: Folder
    """Folder of the study."""
    format: Literal["people", "votes", "label-studio", "label-studio-view"] = "people"
    """`people`: JSONL for `check-rewards --people`; `votes`: JSONL, a row per vote;
    `label-studio`: JSON tasks with annotations; `label-studio-view`: their labelling interface.
    """
    out: Path = Path("votes.jsonl")
    """Where they go."""
    question: str | None = None
    """`people`: by the answers to this question; none: the first that is asked about each text,
    else the last.
    """


@dataclass(frozen=True)
class JudgeConfig:
    """Let a model behind a server answer the study, every pair in both orders."""

    folder: Folder
    """Folder of the study."""
    server: str
    """Address of an OpenAI-style server, up to `/v1`."""
    model: str
    """Name of a model there."""
    max_new_tokens: int = 512
    """Length limit of a verdict with its reason, in tokens."""
    http: HttpConfig = HttpConfig()
    """How the server is asked."""

    def __post_init__(self) -> None:
        at_least(self, 1, "max_new_tokens")


def new(config: NewConfig) -> dict[str, Any]:
    """Make the study's folder, and print the links of those who are invited."""
    from rationalize.files import make_folder
    from rationalize.study.design import save_study
    from rationalize.study.store import Store

    study = designed(config)
    make_folder(config.folder)
    store = Store.create(config.folder)
    save_study(study, config.folder)  # the last file: with it the study is there
    print(one_line(f"{config.folder}: {_described(study)}"))
    for note in study.notes:
        print(f"note: {one_line(note)}")
    links = _invited(store, config.annotators)
    print(one_line(f"serve it: rationalize study serve {config.folder}"))
    return {"study": config.folder, "items": len(study.compared), "links": links}


def designed(config: NewConfig) -> Study:
    """The study that the settings ask for. Raises what can be wrong with them; writes nothing."""
    from rationalize.commands.study_sources import read_methods
    from rationalize.study.asks import questionnaire
    from rationalize.study.design import Study, make_items

    if config.folder.exists() and (not config.folder.is_dir() or any(config.folder.iterdir())):
        raise UserError(f"{config.folder}: is not empty; name a new folder for the study")
    if len(set(config.annotators)) < len(config.annotators):
        raise UsageError("--annotators: a name stands there twice; expected each once")
    asks = questionnaire(config.ask)
    if config.consent is not None:
        try:
            text = config.consent.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise UserError(f"{config.consent}: cannot be read ({error}); name a text file") from (
                error
            )
        asks = dataclasses.replace(asks, consent=text)
    methods, questions = read_methods(config.sources, config.methods, config.split, config.columns)
    items, notes = make_items(
        methods, questions, config.items, checks=config.attention_checks, seed=config.seed
    )
    return Study(
        asks, tuple(methods), tuple(items), config.seed, config.per_annotator,
        config.max_failed_checks, config.show_answer, tuple(notes),
    )  # fmt: skip


def invite(config: InviteConfig) -> dict[str, Any]:
    """Print and return the links of further annotators."""
    _, store = opened(config.folder)
    return {"links": _invited(store, config.annotators, renew=config.renew)}


def serve(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM."""
    from rationalize.study.serve import serve as serve_study

    serve_study(config.folder, config.host, config.port)


def results(config: ResultsConfig) -> dict[str, Any]:
    """Compute, print and return the results; they and their page are written into the folder."""
    from rationalize.files import plain, write_text
    from rationalize.report.study import study_text, write_study

    found = results_of(config.folder)
    write_text(config.folder / "results.json", json.dumps(plain(found), indent=1) + "\n")
    write_study(found, config.folder / "report.html")
    print(study_text(found))
    print(one_line(f"report: {config.folder / 'report.html'}"))
    return found


def results_of(folder: Path) -> dict[str, Any]:
    """The results of the study in a folder, by the votes that are there now."""
    from rationalize.study.results import study_results

    study, store = opened(folder)
    return study_results(study, store.annotators(), store.votes(), store.verdicts())


def export_votes(config: ExportVotesConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the votes that results count; print and return how many rows there are."""
    from rationalize.files import write_text
    from rationalize.study import export
    from rationalize.study.answers import counted
    from rationalize.text import escaped_json

    study, store = opened(config.folder)
    ask = export.ask_named(study, config.question)
    out = output_of(config, overwrite)
    out.claim()
    votes = counted(study, store.votes())
    rows: list[dict[str, Any]] = []
    if config.format == "label-studio-view":
        text = export.label_studio_view(study)
    elif config.format == "label-studio":
        rows = export.label_studio_tasks(study, votes)
        text = escaped_json(json.dumps(rows, indent=1, ensure_ascii=False)) + "\n"
    else:
        rows = (
            export.judged_rows(study, votes, ask)
            if config.format == "people"
            else export.vote_rows(study, votes, store.annotators())
        )
        text = "".join(escaped_json(json.dumps(r, ensure_ascii=False)) + "\n" for r in rows)
    if not votes and config.format in ("people", "votes"):
        raise UserError(f"{config.folder}: no vote is counted yet; nothing was written")
    write_text(config.out, text)
    out.sign()
    print(one_line(f"{config.out}: {len(rows)} rows of {len(votes)} votes"))
    return {"out": config.out, "rows": len(rows), "votes": len(votes)}


def output_of(config: ExportVotesConfig, overwrite: bool) -> OutputFile:
    """The file; a later export of the same study may replace it, since votes come in."""
    made_from = {"study": config.folder, "format": config.format, "question": config.question}
    return OutputFile(config.out, "study export", made_from, overwrite)


def judge(config: JudgeConfig) -> dict[str, Any]:
    """Ask the model, store its verdicts in the study, print and return their number."""
    from rationalize.rewards.judge import Judge
    from rationalize.study.judging import ask_judge

    study, store = opened(config.folder)
    model = Judge(config.model, config.server, config.http, max_new_tokens=config.max_new_tokens)
    try:
        verdicts = ask_judge(study, model, whole_characters(config.model))
    finally:
        if not model.bill.empty:
            print(f"{config.server}: {model.bill}", file=sys.stderr)
    store.add_verdicts(verdicts)
    unread = sum(v.answer is None for v in verdicts)
    print(one_line(f"{config.model}: {len(verdicts)} verdicts, {unread} of them unreadable"))
    print(one_line(f"results: rationalize study results {config.folder}"))
    return {"judge": config.model, "verdicts": len(verdicts), "unreadable": unread}


def opened(folder: Path) -> tuple[Study, Store]:
    """The study in a folder and its votes. Raises `UserError` where they are not there."""
    from rationalize.study.design import load_study
    from rationalize.study.store import Store

    return load_study(folder), Store(folder)


def _invited(store: Store, names: tuple[str, ...], *, renew: bool = False) -> Mapping[str, str]:
    tokens = store.invite_all([whole_characters(name) for name in names], renew=renew)
    links = {name: f"/s/{token}" for name, token in tokens.items()}
    if links:
        print("links, shown once (put the server's address before them):")
    for name, link in links.items():
        print(f"  {one_line(name)}  {link}")
    return links


def _described(study: Study) -> str:
    methods = ", ".join(study.methods)
    return (
        f"{len(study.compared)} comparisons of {methods}, {len(study.checks)} attention checks; "
        f"asked: {', '.join(ask.name for ask in study.asks.questions)}"
    )
