"""Every command line that the documents, the experiments and the examples quote is accepted."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from rationalize.cli import main
from rationalize.commands.table import FORMS, trained
from rationalize.methods import DEMOS

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "experiments/*.*", "examples/*.py")
COMMAND = re.compile(rf"\brationalize ((?:{'|'.join(FORMS)})\b[^`\n]*)")
NOT_RUN = ("lerning-rate", "--server ..", "--help")
"""What a page quotes with the error that it gives, in part, or for its help."""
ABSENT = re.compile(
    r"no such (file|folder)|no (config|scorer|reward_model|study)\.\w+ there|module 'my_\w+'? "
)
"""What a dry run says of runs, files and modules of the reader's own."""


def quoted() -> list[str]:
    """The commands, as the shell would see them: continued lines joined, comments cut."""
    commands: dict[str, None] = {}
    for pattern in PLACES:
        for file in sorted(ROOT.glob(pattern)):
            text = re.sub(r"\\\n\s*(#\s*)?", " ", file.read_text(encoding="utf-8"))
            for match in COMMAND.finditer(text):
                if match.start() and text[match.start() - 1] in "`" and "--" not in match[1]:
                    continue  # the name of a command in a sentence
                command = re.split(r"\s#|;| > | \| |\)(?:\s|$)", match[1])[0].strip()
                commands[command] = None
    return [c for c in commands if not any(word in c for word in NOT_RUN)]


def leaves(value) -> int:
    return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1


def test_settings_exist_once(capsys):
    """A command's configuration stays one that a person can read."""
    counts = {}
    for argv in (*([name] for name in trained()), *(["demo", "--method", d] for d in DEMOS)):
        assert main(["config", *argv]) == 0
        counts[" ".join(argv)] = leaves(yaml.safe_load(capsys.readouterr().out))
    assert max(counts.values()) <= 240, counts
    assert counts["mario"] <= 63, counts


@pytest.mark.parametrize("command", quoted())
def test_a_quoted_command_is_accepted(command, monkeypatch, capsys, tmp_path):
    for part in ("docs", "experiments", "examples"):  # not the runs that lie beside them
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    argv = [re.sub(r"\$\w+", "0", word) for word in shlex.split(command)]
    if "mario.yaml" in argv:  # the page makes it in the line before
        argv = argv[: argv.index("--config")]
    if argv[0] not in ("config", "completion"):
        argv.append("--dry-run")
    status = main(argv)
    said = capsys.readouterr().err
    assert status == 0 or ABSENT.search(said), said
