"""The report page, opened in a real browser where there is one."""

import shutil
import subprocess

import pytest

CHROME = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
]
needs_browser = pytest.mark.skipif(CHROME is None, reason="no Chromium or Chrome is installed")


def opened(path, tmp_path, hash=""):
    """The page's DOM after its script ran, and what the console said."""
    profile = tmp_path / f"profile{len(list(tmp_path.iterdir()))}"
    done = subprocess.run(
        [CHROME, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri() + hash],
        capture_output=True,
        timeout=90,
        check=True,
    )
    console = [
        line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line
    ]
    return done.stdout.decode("utf-8"), console
