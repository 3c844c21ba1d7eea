"""A small OpenAI-style server on loopback, which behaves, or misbehaves by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["Handler"], None]


class Loopback(ThreadingHTTPServer):
    """Answers each request by the next act of its script, and by `answer` when that is over."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: tuple[Act, ...], answer: Act) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = list(script)
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.arrived = threading.Condition(self.lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait_for(self, requests: int) -> None:
        with self.lock:
            assert self.arrived.wait_for(lambda: len(self.bodies) >= requests, timeout=60)

    def handle_error(self, *_: Any) -> None:
        """A client that left is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Loopback
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(self.body)
            self.server.heads.append((self.path, dict(self.headers)))
            script = self.server.script
            act = script.pop(0) if script else self.server.answer
            self.server.arrived.notify_all()
        act(self)

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(*script: Act, answer: Act | None = None) -> Iterator[Loopback]:
    server = Loopback(script, answer or replies("It is heavy. So the answer is (A)."))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def replies(*texts: Any, n: int | None = None, finish: str | None = "stop", usage=True) -> Act:
    """As many choices as are asked for (or `n`), of these texts in turn; 7 tokens for the prompt,
    5 for a choice.
    """

    def act(handler: Handler) -> None:
        count = n or handler.body.get("n", 1)
        chat = "messages" in handler.body
        chosen = [texts[i % len(texts)] for i in range(count)]
        choices = [
            {"message": {"role": "assistant", "content": t}} if chat else {"text": t}
            for t in chosen
        ]
        body: dict[str, Any] = {"choices": [{**c, "finish_reason": finish} for c in choices]}
        if usage:
            body["usage"] = {"prompt_tokens": 7, "completion_tokens": 5 * count}
        handler.send(json.dumps(body).encode())

    return act


def says(content: Any, status: int = 200, **headers: str) -> Act:
    """These bytes, or this value as JSON."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda handler: handler.send(raw, status, **headers)


def cut(handler: Handler) -> None:
    """In the middle of the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')


def cut_chunked(handler: Handler) -> None:
    """In the middle of a chunk."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'ff\r\n{"choices": [')
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    """Without a word."""
    handler.close_connection = True


def garble(handler: Handler) -> None:
    """What is no HTTP."""
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")


def silence(handler: Handler) -> None:
    handler.server.released.wait(60)


def drip(handler: Handler) -> None:
    """A byte now and then, for three seconds."""
    handler.send_response(200)
    handler.send_header("Content-Length", "300")
    handler.end_headers()
    for _ in range(300):
        handler.server.released.wait(0.01)
        handler.wfile.write(b" ")
        handler.wfile.flush()
