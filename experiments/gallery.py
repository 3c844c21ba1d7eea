"""Pictures of the demos' reports, for `docs/gallery/` and `docs/report.md`.

    python -m experiments.gallery mario=runs/demo coalition=RUN self-motivated=RUN

Writes each run's page again, opens it in headless Chromium, at 1280 pixels, and stores the parts
that `PARTS` and `IMAGES` name as PNG files of at most 256 colours. It needs Chromium or Chrome, and
the extra `test`. Figures beside the pictures come from stored results: `experiments/tables.py
--store RUN NAME`, then `--write`.
"""

from __future__ import annotations

import argparse
import base64
import struct
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import numpy as np

from rationalize.evaluation.compare import flat, read_run
from rationalize.report import write_report
from tests.browser import Page

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 1280
TALLEST = 2000
"""Pixels; a part that is taller is cut there."""
LARGEST = 150_000
"""Bytes of one picture."""

IN_SHORT = "#answers > :not(details)"
QUESTION = "#cards > .card:first-child"
PARTS = {
    "mario": {"in-short": IN_SHORT, "question": QUESTION, "tokens": "#obedience"},
    "coalition": {"in-short": IN_SHORT, "question": QUESTION, "coalition": "#coalition"},
    "self-motivated": {"in-short": IN_SHORT, "question": QUESTION, "attempts": "#coverage, #votes"},
}
"""Demo, name of the picture, and the selector of the elements that it spans."""
IMAGES = {
    "report": "header, #answers > :not(details)",
    "questions": "#controls, #count, #cards > .card:nth-child(-n + 2)",
}
"""Pictures of MaRio's report in `docs/images/`."""

COMPARED = {
    "mario": {"b": "base, zero-shot"},
    "coalition": {"b": "M_IFT alone"},
    "self-motivated": {"a": "PPO, rm+z", "b": "RFT (M_sft)"},
}
"""The methods compared in a demo's question, where others than the page's choice."""
MANY = 8
"""Rows of a chart above which the charts of further metrics are left out."""

# What is looked at: the rationales of the two methods compared and of the untrained model, and of
# long charts those of the first metrics.
FEW = """(() => {
  const form = document.getElementById("controls").elements;
  for (const box of document.querySelectorAll("[name=show]"))
    box.checked = [form.a.value, form.b.value].includes(box.value) || box.value.startsWith("base");
  form.q.dispatchEvent(new Event("input", { bubbles: true }));
  for (const charts of document.querySelectorAll("#answers .charts"))
    if (charts.querySelector("svg").getBoundingClientRect().height > 32 * %d)
      [...charts.children].slice(3).forEach((chart) => chart.remove());
})()"""

SPAN = """(() => {
  const boxes = [...document.querySelectorAll(%r)].map((e) => e.getBoundingClientRect());
  const sides = boxes.filter((box) => box.height).map((box) => [box.top, box.bottom]).flat();
  return sides.length ? [Math.min(...sides) + scrollY, Math.max(...sides) + scrollY] : null;
})()"""

# The browser decodes its own PNG, so that no image library is needed here.
DECODE = """(async () => {
  const image = new Image();
  image.src = "data:image/png;base64,%s";
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, image.width, image.height).data;
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768)
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return [image.width, image.height, btoa(text)];
})()"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="DEMO=RUN", help=f"demos: {', '.join(PARTS)}")
    for pair in parser.parse_args().runs:
        demo, _, run = pair.partition("=")
        if demo not in PARTS:
            parser.error(f"{pair!r}: expected DEMO=RUN, with a demo of {', '.join(PARTS)}")
        with TemporaryDirectory() as folder:
            for path in shots(demo, written_again(Path(run), Path(folder))):
                print(path.relative_to(DOCS.parent), path.stat().st_size)


def written_again(run: Path, folder: Path) -> Path:
    """The page of a finished run, as it is written today."""
    read = read_run(run)
    attempts = flat(read.attempts)
    return write_report(read.results, attempts, read.questions, folder / "report.html")


def shots(demo: str, report: Path) -> list[Path]:
    """The pictures of one report, written."""
    folder = DOCS / "gallery"
    folder.mkdir(exist_ok=True)
    # the page opens sorted by the gain of the first method over the second
    state = {"split": "test", "words": "1"} | COMPARED.get(demo, {})
    address = f"{report.resolve().as_uri()}#{urlencode(state)}"
    with Page(address, width=WIDTH) as page:
        page.evaluate(FEW % MANY)
        places = {folder / f"{demo}-{name}.png": of for name, of in PARTS[demo].items()}
        if demo == "mario":
            places |= {DOCS / "images" / f"{name}.png": of for name, of in IMAGES.items()}
        return [shot(page, of, path) for path, of in places.items()]


def shot(page: Page, selector: str, path: Path) -> Path:
    """A PNG of the stretch of the page that the selector's elements span."""
    span = page.evaluate(SPAN % selector)
    if span is None:
        raise SystemExit(f"{path.name}: the report has no {selector!r}")
    margin = 12
    top, bottom = max(0, int(span[0]) - margin), int(span[1]) + margin
    page.screenshot(path, top=top, height=min(bottom - top, TALLEST))
    pixels = decoded(path.read_bytes(), page)
    smaller = (compressed(pixels, colours) for colours in (256, 64, 16))
    picture = next((png for png in smaller if len(png) <= LARGEST), None)
    if picture is None:
        raise SystemExit(f"{path}: more than {LARGEST} bytes in 16 colours; take a smaller part")
    path.write_bytes(picture)
    return path


def decoded(png: bytes, page: Page) -> np.ndarray:
    """Red, green and blue of every pixel, (height, width, 3)."""
    width, height, text = page.evaluate(DECODE % base64.b64encode(png).decode())
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3]


def compressed(pixels: np.ndarray, colours: int) -> bytes:
    """The picture as a PNG with a palette: a third of the browser's bytes."""
    palette, index = quantised(pixels, colours)
    height, width = index.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), index], axis=1)  # filter 0 in each row
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, indexed
    chunks = {
        b"IHDR": header,
        b"PLTE": palette.tobytes(),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def quantised(pixels: np.ndarray, most: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """At most so many colours, (C, 3), and each pixel's index of the nearest one, (height, width).

    The most frequent colour of each eighth of red, green and blue, so that a rare green stays
    green; then the most frequent ones of all.
    """
    flat = pixels.reshape(-1, 3).astype(np.int64)
    codes, inverse, counts = np.unique(
        flat @ [65536, 256, 1], return_inverse=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    _, first = np.unique((colours[order] >> 5) @ [64, 8, 1], return_index=True)
    chosen = order[np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(order)), first)])]
    palette = colours[chosen[:most]]
    distances = ((colours[:, None] - palette[None]) ** 2).sum(-1)
    index = distances.argmin(1).astype(np.uint8)[inverse]
    return palette.astype(np.uint8), index.reshape(pixels.shape[:2])


if __name__ == "__main__":
    main()
