"""JSON posted to a server and read back: what is worth asking again, how long to wait before, and
what to tell the user when it is not. No torch here.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import logging
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException, IncompleteRead
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from rationalize.errors import UsageError, UserError
from rationalize.text import clip

log = logging.getLogger(__name__)

T = TypeVar("T")

_TRIES = 8
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds; each wait is twice the last, less up to half
_LONGEST_ASKED = 900.0  # a server that asks for more is asked another day
_LARGEST = 32 * 2**20  # bytes of an answer
_SHORTEST_SECRET = 12  # "EMPTY", "none": what local servers take for a key may stand in any text
_PASSING = (408, 409, 425, 429)


class Transient(Exception):
    """Worth asking again: `reason` in few words, what was `found`, and how many seconds to wait
    first, where the server said so.
    """

    def __init__(self, reason: str, found: str, wait: float | None = None) -> None:
        super().__init__(found)
        self.reason = reason
        self.wait = wait


class Refused(UserError):
    """What this request holds is at fault, and would be the next time."""


@dataclass(frozen=True)
class Door:
    """Where requests go, and the key that opens it. The key is shown nowhere."""

    url: str
    timeout: float
    """Seconds until an answer must be whole."""
    key_variable: str
    """Environment variable that holds the key; the variable may be absent, the server open."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port, (parts.hostname or "").encode("idna")
        except ValueError as error:
            raise UsageError(f"--server: {error}; expected http(s)://host[:port][/path]") from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                "--server: found an address with a user, a query or a fragment, which would be "
                f"stored with the run; expected http(s)://host[:port][/path], and the key in the "
                f"environment variable {self.key_variable}"
            )
        plain = re.fullmatch(r"[!-~]+", self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise UsageError(
                f"--server: found {clip(self.url)}; expected http(s)://host[:port][/path]"
            )

    def post(self, body: Mapping[str, Any]) -> Any:
        """The JSON that the server answers. Raises `Transient`, `Refused`, `UserError`."""
        key = self._key()
        headers = {"Content-Type": "application/json", "User-Agent": "rationalize"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = Request(self.url, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                content = _read(response, time.monotonic() + self.timeout)
        except HTTPError as error:
            raise self._refusal(error, key) from None
        except (OSError, HTTPException) as error:
            raise self._lost(error) from error
        if len(content) > _LARGEST:
            raise UserError(
                f"{self.url}: found an answer of more than {_LARGEST >> 20} MiB; expected a few "
                "kilobytes. Does the server keep to max_tokens?"
            )
        if len(key) >= _SHORTEST_SECRET:
            content = _without(key, content)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            found = clip(_without(key, content[:200]), 200)
            raise Transient("broken JSON", f"{self.url}: answered {found}, not JSON") from None

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise UserError(
                f"the environment variable {self.key_variable} holds spaces or characters beyond "
                "ASCII; expected an API key"
            )
        return key

    @cached_property
    def _opener(self) -> OpenerDirector:
        """Follows no redirection: that would hand the key to whoever is named."""
        opener = OpenerDirector()
        for handler in (
            ProxyHandler({} if _is_loopback(urlsplit(self.url).hostname or "") else None),
            HTTPHandler(),
            HTTPSHandler(context=ssl.create_default_context()),
            HTTPDefaultErrorHandler(),
            HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener

    def _refusal(self, error: HTTPError, key: str) -> Exception:
        """What an answer with an error's status means."""
        content = b""
        with error, suppress(OSError, HTTPException):
            content = _read(error.fp, time.monotonic() + self.timeout)
        said, code = _complaint(_without(key, content))
        found = f"{self.url}: answered {error.code}{f' ({said})' if said else ''}"
        if code == "insufficient_quota":
            return UserError(f"{found}; the account behind the key has no quota left")
        if error.code in _PASSING or error.code >= 500:
            wait = _retry_after(error.headers.get("Retry-After"))
            if wait is not None and wait > _LONGEST_ASKED:
                return UserError(f"{found} and asks to wait {wait:.0f} s; start again after that")
            return Transient(str(error.code), found, wait)
        if error.code in (401, 403):
            state = "which it does not take" if key else "which is not set"
            return UserError(
                f"{found}; expected a key in the environment variable {self.key_variable}, {state}"
            )
        if error.code == 404:
            return UserError(f"{found}; expected a server and a --model that exist")
        if error.code < 400:
            to = _without(key, error.headers.get("Location", "").encode())
            return UserError(f"{found}: moved to {clip(to.decode(), 200)}; name that")
        return Refused(
            f"{found}; a field that it does not know can be changed with --http.fields NAME=VALUE, "
            "or left out with NAME=null"
        )

    def _lost(self, error: Exception) -> Exception:
        """What a connection that failed means."""
        cause = getattr(error, "reason", error) if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UserError(f"{self.url}: its certificate does not hold ({cause.verify_message})")
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            return UserError(f"{self.url}: there is no such host ({cause.strerror})")
        if isinstance(cause, TimeoutError):
            return Transient("a time-out", f"{self.url}: no whole answer in {self.timeout:g} s")
        if isinstance(cause, ConnectionRefusedError):
            return Transient("a refused connection", f"{self.url}: nothing listens there")
        return Transient("a cut connection", f"{self.url}: {clip(str(cause), 200)}")


def patiently(
    ask: Callable[[], T], wait: Callable[[float], object], asking_again: Callable[[str], bool]
) -> T:
    """What `ask` gives, asked again after each `Transient` until eight times in all.

    `wait(seconds)` passes the time; `asking_again(reason)` counts, and says whether it is the first
    time for that reason, which the user is told.
    """
    for k in range(_TRIES - 1):
        try:
            return ask()
        except Transient as problem:
            backoff = min(_FIRST_WAIT * 2**k, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
            # never before the time that the server set, and not all at that moment
            seconds = max(backoff, (problem.wait or 0.0) + random.uniform(0.0, 1.0))
            if asking_again(problem.reason):
                log.warning("%s; asking again in %.1f s", problem, seconds)
            wait(seconds)
    try:
        return ask()
    except Transient as problem:
        raise UserError(
            f"{problem}; {_TRIES} times. What was answered is kept: start again to go on"
        ) from None


def _is_loopback(host: str) -> bool:
    """No proxy stands before this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(response: Any, deadline: float) -> bytes:
    """The whole body, or a little more than an answer may have; a server that drips is a time-out.

    Raises `TimeoutError`, `IncompleteRead`.
    """
    content = bytearray()
    while len(content) <= _LARGEST and (part := response.read1(1 << 16)):
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length and len(content) <= _LARGEST:
        raise IncompleteRead(b"", response.length)
    return bytes(content)


def _without(key: str, content: bytes) -> bytes:
    """Without the key, should the server repeat it."""
    return content.replace(key.encode(), b"***") if key else content


def _complaint(content: bytes) -> tuple[str, object]:
    """The message, fit to be shown, and the code in the body of an error."""
    found, code = None, None
    with suppress(ValueError, RecursionError):
        found = json.loads(content)
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
            code = found.get("code") if isinstance(found, dict) else code
    said = found if isinstance(found, str) else content[:400].decode("utf-8", "replace")
    return (clip(said, 300) if said else ""), code


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date; None where it says neither."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None
