"""The study on a port of this machine, until it is stopped."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from rationalize.errors import UserError
from rationalize.sampling.http import is_loopback

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 1000
"""Connections at once; more are answered 503."""


def serve(folder: Path, host: str, port: int) -> None:
    """Serve the study in `folder` at `host` and `port` (0: any that is free) until SIGINT or
    SIGTERM; the address is printed.

    Raises `UserError` without Starlette and uvicorn, or where the address cannot be had.
    """
    try:
        import uvicorn

        from rationalize.study.app import make_app
    except ImportError as error:
        raise UserError(
            f"`study serve` needs {error.name}, which is not installed; install "
            "'rationalize[study]'"
        ) from error
    app = make_app(folder)
    if not is_loopback(host):
        log.warning(
            "%s is not this machine alone: whoever reaches it and has a link can vote, and without "
            "TLS whoever reads the network has the links. Put a proxy with TLS before it, which "
            "must keep the Host header",
            host,
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{host}:{port} cannot be served ({error}); name another --port or --host"
        ) from error
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    print(f"serving the study at http://{shown}:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", http="h11", ws="none",
        access_log=False,  # a path holds its link
        server_header=False, proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=30, timeout_graceful_shutdown=10,
    )  # fmt: skip
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
