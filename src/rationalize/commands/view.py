"""`view`: runs in a browser while they go on. On this machine only, and for reading only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated

from tyro.conf import Positional, arg

from rationalize.config.checks import between
from rationalize.errors import UsageError, UserError
from rationalize.report.text import hash_of, script
from rationalize.report.view import Watched, render_view, watched

HOST = "127.0.0.1"


@dataclass(frozen=True)
class ViewConfig:
    """Runs in a browser, as they go on."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN ..")]
    """Folders of runs, finished or not."""
    port: int = 8765
    """Where to listen on this machine; 0: any free port."""

    def __post_init__(self) -> None:
        between(self, 0, 65535, "port")


def view(config: ViewConfig) -> None:
    """Serve the runs until Ctrl-C."""
    with open_view(config) as server:
        print(f"http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def open_view(config: ViewConfig) -> ThreadingHTTPServer:
    """The server, listening; `serve_forever` starts it. Raises `UserError` for a port in use."""
    if not config.runs:
        raise UsageError("expected the folder of at least one run")
    site = Site(watched(config.runs))

    class Handler(_Handler):
        pages = site

    try:
        return ThreadingHTTPServer((HOST, config.port), Handler)
    except OSError as error:
        raise UserError(
            f"port {config.port} of {HOST} cannot be listened on ({error.strerror}); "
            "name another --port, or 0 for any"
        ) from error


class Site:
    """What is served: pages by their address."""

    def __init__(self, runs: list[Watched]) -> None:
        self.runs, self.lock = runs, threading.Lock()
        self._compared: tuple[list[int], str] | None = None

    def page(self, address: str) -> str | None:
        """The page of an address; None where there is none."""
        pages: dict[str, Callable[[], str | None]] = {
            "/": partial(render_view, self.runs), "/compare": self._compare,
            **{f"/runs/{i}": partial(_report, run) for i, run in enumerate(self.runs)},
        }  # fmt: skip
        with self.lock:
            return pages[address]() if address in pages else None

    def _compare(self) -> str | None:
        from rationalize.evaluation.compare import compare_runs
        from rationalize.report.page import render

        done = [run.path for run in self.runs if run.finished]
        if len(done) < 2:
            return None
        when = [(path / "results.json").stat().st_mtime_ns for path in done]
        if self._compared is None or self._compared[0] != when:
            self._compared = when, render(*compare_runs(done))
        return self._compared[1]


def _report(run: Watched) -> str | None:
    page = run.path / "report.html"
    return page.read_text(encoding="utf-8") if page.exists() else None


class _Handler(BaseHTTPRequestHandler):
    pages: Site
    server_version = "rationalize"
    sys_version = ""

    def do_GET(self) -> None:
        """A page, where the browser asked this machine for it."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        # another site's name that points here must not read the runs (DNS rebinding)
        if self.headers.get("Host") not in {f"{HOST}:{port}", f"localhost:{port}"}:
            self._answer(403, f"expected the address http://{HOST}:{port}/")
            return
        try:
            page = self.pages.page(self.path)
        except UserError as error:
            self._answer(500, str(error))
            return
        if page is None:
            self._answer(404, "no such page")
        else:
            self._answer(200, page, "text/html", follows=self.path == "/")

    do_HEAD = do_GET

    def _answer(
        self, status: int, text: str, kind: str = "text/plain", *, follows: bool = False
    ) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if follows:
            code = hash_of(script("view.js"))
            policy = f"script-src 'sha256-{code}'; connect-src 'self'; style-src 'unsafe-inline'"
            self.send_header(
                "Content-Security-Policy",
                f"default-src 'none'; {policy}; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'",
            )
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""
