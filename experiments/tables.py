"""Tables of `docs/experiments/` and README, printed from stored results.

    python experiments/tables.py RUN                # every table of a run, as Markdown
    python experiments/tables.py --store RUN NAME   # to experiments/results/NAME.json, no texts
    python experiments/tables.py --write            # fill the marked places of README.md and docs/
    python experiments/tables.py --check            # exit 1 where one of them is out of date

A marked place names a stored file, a table and what it shows; the lines between are replaced:

    <!-- table: demo methods test accuracy nrg -->
    <!-- end of table -->

Tables of a run's results: `methods SPLIT [METRIC ..]`, `differences SPLIT [METRIC ..]`,
`seeds [METRIC ..]`, `token-auc`, `obedience`, `facts`; `verdicts SPLIT`: the report's first
sentences. A file made by a script of its own holds
`{"meta": {..}, "tables": {"NAME": [row, ..]}}` and is shown by `rows NAME [COLUMN ..]`, where a
cell is text, a number, or `{"mean": .., "low": .., "high": ..}`. The place `claims` shows what
`experiments/claims.yaml` lists: one difference of a stored file in a row, and what it says.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rationalize.evaluation.differences import correct
from rationalize.evaluation.tables import (
    LEGEND,
    NONE,
    difference_table,
    splits_of,
    table,
)
from rationalize.evaluation.verdicts import verdicts

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "experiments" / "results"
CLAIMS = ROOT / "experiments" / "claims.yaml"
PLACE = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
RATES = ("accuracy", "stated_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--store", nargs=2, metavar=("RUN", "NAME"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.store:
        print(store(Path(args.store[0]), args.store[1]))
    elif args.write or args.check:
        old = [page for page in pages() if outdated(page, write=args.write)]
        print("\n".join(f"{'written' if args.write else 'out of date'}: {p}" for p in old))
        raise SystemExit(bool(old) and args.check)
    elif args.run:
        print(everything(correct(json.loads((args.run / "results.json").read_text()))))
    else:
        parser.error("a run, --store, --write or --check is needed")


def write_tables(
    name: str, meta: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Path:
    """Store a script's own tables, a row a line."""
    lines = [
        f" {json.dumps(t)}: [\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n ]"
        for t, rows in tables.items()
    ]
    STORED.mkdir(exist_ok=True)
    path = STORED / f"{name}.json"
    path.write_text(f'{{"meta": {json.dumps(meta)},\n"tables": {{\n' + ",\n".join(lines) + "\n}}\n")
    return path


def store(run: Path, name: str) -> Path:
    """A run's results in the repository: every figure but those of single steps, and no text."""
    results = json.loads((run / "results.json").read_text())
    del results["training"]
    results.pop("chains", None)
    path = STORED / f"{name}.json"
    path.write_text(as_lines(_portable(results)))
    return path


def as_lines(results: Mapping[str, Any]) -> str:
    """JSON with a line for every key, and for every entry of a key's list."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list) and value:
            text = "[\n " + ",\n ".join(json.dumps(v) for v in value) + "\n]"
        else:
            text = json.dumps(value)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def outdated(page: Path, *, write: bool = False) -> bool:
    """Whether a marked place of the page differs from its table; `write` replaces it."""
    text = page.read_text()
    fresh = PLACE.sub(lambda m: f"{m[1]}{shown(m[2].split())}\n{m[4]}", text)
    if write and fresh != text:
        page.write_text(fresh)
    return fresh != text


def shown(words: Sequence[str]) -> str:
    """The table that a marked place asks for: file, table, and its arguments."""
    if words == ["claims"]:
        return markdown(claims(yaml.safe_load(CLAIMS.read_text())))
    name, kind, *rest = words
    results = json.loads((STORED / f"{name}.json").read_text())
    if kind == "rows":
        return markdown(rows_of(results["tables"][rest[0]], rest[1:]))
    results = correct(results)
    if kind == "methods":
        return markdown(columns(table(chosen(results, rest[1:]), rest[0]), 2))
    if kind == "differences":
        return markdown(difference_table(chosen(results, rest[1:]), rest[0])) + f"\n\n{LEGEND}"
    if kind == "verdicts":
        return "\n".join(f"* {claim.text}" for claim in verdicts(results, rest[0]))
    if kind == "seeds":
        return per_seed(results, rest or (*RATES, "nrg"))
    tables = {"obedience": obedience, "token-auc": token_auc, "facts": facts}
    return tables[kind](results)


def everything(results: Mapping[str, Any]) -> str:
    """All tables of a run."""
    parts = [facts(results)]
    for split in splits_of(results):
        parts += [f"### {split}", markdown(table(results, split))]
        if paired := difference_table(results, split):
            parts += [f"Paired differences: {LEGEND}", markdown(paired)]
    parts += ["### Seeds", per_seed(results, (*RATES, "nrg"))]
    parts += ["### Token AUC", token_auc(results), "### Obedience", obedience(results)]
    return "\n\n".join(parts)


def chosen(results: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """The results with some metrics only, in that order; all without any."""
    names = metrics or list(results["metrics"])
    return {**results, "metrics": {name: results["metrics"][name] for name in names}}


def columns(rows: list[list[str]], fixed: int) -> list[list[str]]:
    """Rows without the columns that no row fills."""
    kept = [i for i in range(len(rows[0])) if i < fixed or any(row[i] != NONE for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def rows_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    """Rows of a script's own file, the header first; all columns where none are named."""
    heads = names or list(dict.fromkeys(key for row in rows for key in row))
    return [[h.replace("_", " ") for h in heads], *([_cell(r.get(h)) for h in heads] for r in rows)]


def claims(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row a claim, under its group's model and page; whether it holds is read off its interval.

    Raises `SystemExit` where a claim names not exactly one row of its file.
    """
    rows = [["", "seen", "difference", "n"]]
    for group in groups:
        rows.append([f"**[{group['about']}](docs/experiments/{group['page']})**", "", "", ""])
        for claim in ({**group, **claim} for claim in group["rows"]):
            results = json.loads((STORED / f"{claim['file']}.json").read_text())
            named = [
                row
                for row in results["tables"][claim["table"]]
                if claim["row"].items() <= row.items()
            ]
            if len(named) != 1:
                raise SystemExit(f"{CLAIMS.name}: {claim['claim']}: {len(named)} rows, not one")
            value, above = named[0][claim["cell"]], claim.get("above", 0)
            n = named[0].get("n") or named[0].get("attempts") or claim["n"]
            rows.append([claim["claim"], seen(value, above), difference(value, claim), str(n)])
    return rows


def seen(value: Mapping[str, float], above: float) -> str:
    """What an interval says of the claim that the true value is above a number."""
    if value["low"] > above:
        return "**yes**"
    return "the opposite" if value["high"] < above else "no"


def difference(value: Mapping[str, float], claim: Mapping[str, Any]) -> str:
    """A difference with its interval; signed, unless it is not against 0."""
    scale, places, sign = claim["scale"], claim["places"], "" if claim.get("above") else "+"
    mean, low, high = (
        f"{scale * value[k] or 0.0:{sign}.{places}f}" for k in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}] {claim['unit']}"


def facts(results: Mapping[str, Any]) -> str:
    """Seeds, hardware and time of a run, in a line."""
    meta = results["meta"]
    minutes = meta.get("seconds", 0) / 60
    return f"Seeds {meta.get('seeds')}; {meta.get('hardware')}; {minutes:.0f} minutes."


def per_seed(results: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """The means of every seed, where a method has more than one."""
    rows = [["method", "split", "metric", "seeds' own values"]]
    for method, entry in results["methods"].items():
        for split, cell in entry["splits"].items():
            for metric in metrics:
                values = cell["metrics"].get(metric, {}).get("seeds", [])
                if len(values) > 1:
                    scale = 100 if results["metrics"][metric].get("percent") else 1
                    text = " ".join(f"{scale * v:.1f}" for v in values)
                    rows.append([method, split, metric, text])
    return markdown(rows)


def token_auc(results: Mapping[str, Any]) -> str:
    """The last measurement of every method and seed."""
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in results.get("token_auc", []):
        last[row.get("method", ""), row["reward"]] = row
    rows = [["method", "reward", "step", "token AUC", "within a question", "attempts, questions"]]
    for (method, reward), row in last.items():
        cells = [_cell(row.get(key)) for key in ("auc", "within")]
        n = f"{row['attempts']}, {row['questions']}"
        rows.append([method, reward, str(row["step"]), *cells, n])
    return markdown(rows)


def obedience(results: Mapping[str, Any]) -> str:
    """The last measurement of every method, one value per seed."""
    last = max((r["step"] for r in results["obedience"]), default=None)
    shown: dict[tuple, list[dict]] = {}
    for row in results["obedience"]:
        if row["step"] == last:
            method = row.get("method", "").rsplit("-", 1)[0]
            shown.setdefault((method, row["reward"], row["bin"]), []).append(row)
    rows = [["method", "reward", "bin", "reached, per run", "gap best - worst, per run"]]
    for (method, reward, b), runs in shown.items():
        reached = "; ".join(_cell(r) for r in runs)
        gaps = "; ".join(_cell(r["gap"]) for r in runs if "gap" in r)
        rows.append([method, reward, str(b), reached, gaps or "-"])
    return markdown(rows)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        mean, low, high = (value[key] for key in ("mean", "low", "high"))
        return f"{_number(mean)} [{_number(low)}, {_number(high)}]"
    return _number(value) if isinstance(value, int | float) else str(value or "")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _portable(value: Any) -> Any:
    """Floats with six significant digits, and paths of one machine cut to their last part."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, str):
        return re.sub(r"(?<!\S)/\S*/(?=[^\s/])", "", value)
    if isinstance(value, Mapping):
        return {key: _portable(of) for key, of in value.items()}
    return [_portable(of) for of in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
