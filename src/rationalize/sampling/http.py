"""JSON posted to a server and read back: which failures are retried, after what wait, and what the
user is told about the others. No torch here.
"""

from __future__ import annotations

import email.utils
import functools
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
from http.client import HTTPException, IncompleteRead
from typing import Any, Literal, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, urlsplit
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
_KEPT = "All answers so far are kept: start again to resume"
_FIRST_WAIT, _MAX_WAIT = 1.0, 60.0  # seconds; each wait is twice the last, less up to half
_MAX_RETRY_AFTER = 900.0  # seconds; a server that asks for more ends the run
_MAX_BYTES = 32 * 2**20  # of an answer
_MIN_SECRET = 12  # characters; shorter keys ("EMPTY", "none") are placeholders and common words
_RETRIED = (408, 409, 425, 429)  # statuses, beside all from 500
_KEY_NAMES = re.compile(r"key|token|secret|sig|pass|auth|cred|code", re.IGNORECASE)
_PROMPT_AT_FAULT = re.compile(
    r"content.?(filter|management|policy|moderation)|responsible.?ai|moderation|flagged"
    r"|inappropriate|data.?inspection|invalid.?prompt|(?<!case.)sensitive|safety"
    r"|maximum context|context.?(length|size|window)|input length|reduce the length"
    r"|(prompt|input|request|message|string).{0,40}too.?(long|large|big|many)"
    r"|too many (input )?tokens|exceed.{0,40}(tokens|context)|above.?max.?length",
    re.IGNORECASE,
)
_UNKNOWN_SETTING = re.compile(r"(unsupported|unknown|unrecognized)", re.IGNORECASE)
_SETTING_AT_FAULT = re.compile(
    r"(unsupported|unknown|unrecognized|unexpected|invalid|extra).{0,12}"
    r"(param|field|argument|input|value)|not permitted|not supported|does not support",
    re.IGNORECASE,
)


class Transient(Exception):
    """A failure that a retry may mend: the `reason` in a few words, what was `found`, and how many
    seconds to wait first, where the server said so.
    """

    def __init__(self, reason: str, found: str, wait: float | None = None) -> None:
        super().__init__(found)
        self.reason = reason
        self.wait = wait

    @property
    def of_server(self) -> bool:
        """Whether the server is the likely cause, rather than the rate of requests."""
        return self.reason not in map(str, _RETRIED)


class Unreachable(Transient):
    """Nothing listens there."""


class Failed(Transient):
    """An answer that is no reply, behind a status of success. After the last retry it counts as a
    refusal of its prompt.
    """


Fault = Literal["prompt", "setting", "unclear", "failure"]
"""What is at fault, as far as the server says; `failure`: the server, eight times."""


class Refused(UserError):
    """The request itself is at fault; a retry would fail too."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


class NoSuchHost(UserError):
    """The name of the host is unknown."""


class NotFound(UserError):
    """The server has no such address, or no such model."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and the API key for it. The key is shown and stored nowhere."""

    url: str
    timeout: float
    """Seconds until an answer must be complete."""
    key_variable: str
    """Environment variable that holds the key; unset for a server that wants none."""
    key_header: str = "authorization"
    """Header that carries the key: `authorization` after the word Bearer, others the key alone."""

    def __post_init__(self) -> None:
        expected = "expected http(s)://host[:port][/path][?query]"
        try:
            parts = urlsplit(self.url)
            _ = parts.port, (parts.hostname or "").encode("idna")
        except ValueError as error:
            raise UsageError(f"--server: {error}; {expected}") from None
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        if parts.username or parts.password or parts.fragment or any(map(_KEY_NAMES.search, names)):
            raise UsageError(
                "--server: found an address with a user, a fragment, or a key in its query, which "
                f"would be stored with the run; {expected}, and the key in the environment "
                f"variable {self.key_variable}"
            )
        printable = re.fullmatch(r"[!-~]+", self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not printable:
            raise UsageError(f"--server: found {clip(self.url)}; {expected}")

    def post(self, body: Mapping[str, Any]) -> Any:
        """The JSON that the server answers. Raises `Transient`, `Refused`, `UserError`."""
        return self._json(self._ask(json.dumps(body).encode()))

    def get(self) -> Any:
        """The JSON at the address, as `post` reads it."""
        return self._json(self._ask(None))

    def tell(self, body: Mapping[str, Any]) -> str:
        """POST an order, whose answer may be of any form or empty; raises as `post` does."""
        return clip(self._ask(json.dumps(body).encode()).decode("utf-8", "replace"), 200)

    def _ask(self, content: bytes | None) -> bytes:
        """What is answered to a POST of `content`, or to a GET where that is None."""
        key = self._key()
        headers = {"Content-Type": "application/json", "User-Agent": "rationalize"}
        if key:
            bearer = self.key_header == "authorization"
            headers[self.key_header.title()] = f"Bearer {key}" if bearer else key
        method = "GET" if content is None else "POST"
        request = Request(self.url, content, headers, method=method)
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                answer = _read(response, time.monotonic() + self.timeout)
        except HTTPError as error:
            raise self._status_error(error, key) from None
        except (OSError, HTTPException) as error:
            raise self._connection_error(error) from error
        if len(answer) > _MAX_BYTES:
            raise UserError(
                f"{self.url}: found an answer of more than {_MAX_BYTES >> 20} MiB; expected a few "
                "kilobytes. Does the server obey max_tokens?"
            )
        return _redacted(key, answer) if len(key) >= _MIN_SECRET else answer

    def _json(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            found = clip(_redacted(self._key(), answer[:200]), 200)
            raise Transient("broken JSON", f"{self.url}: answered {found}, not JSON") from None

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise UserError(
                f"the environment variable {self.key_variable} holds spaces or characters beyond "
                "ASCII; expected an API key"
            )
        return key

    @functools.cached_property
    def _opener(self) -> OpenerDirector:
        """Follows no redirection: that would send the key to another server."""
        opener = OpenerDirector()
        for handler in (
            ProxyHandler({} if is_loopback(urlsplit(self.url).hostname or "") else None),
            HTTPHandler(),
            HTTPSHandler(context=_certificates()),
            HTTPDefaultErrorHandler(),
            HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener

    def _status_error(self, error: HTTPError, key: str) -> Exception:
        """The exception for an answer whose status is an error."""
        content = b""
        with error, suppress(OSError, HTTPException):
            content = _read(error.fp, time.monotonic() + self.timeout)
        message, code = _error_message(_redacted(key, content))
        found = f"{self.url}: answered {error.code}{f' ({message})' if message else ''}"
        fault = _fault(message, code)
        # 429 and "too many tokens" is a matter of time, unless one request alone is too large
        waits = error.code == 429 and "too large" not in message.lower()
        if (fault == "prompt" and error.code not in (401, 404) and not waits) or error.code == 413:
            return Refused(found, "prompt")
        if code == "insufficient_quota":
            return UserError(f"{found}; the account behind the key has no quota left")
        if error.code in _RETRIED or error.code >= 500:
            wait = _retry_after(error.headers.get("Retry-After"))
            if wait is not None and wait > _MAX_RETRY_AFTER:
                return UserError(f"{found} and asks to wait {wait:.0f} s; start again after that")
            return Transient(str(error.code), found, wait)
        if error.code in (401, 403):
            state = "whose value the server refuses" if key else "which is not set"
            return UserError(
                f"{found}; expected a key in the environment variable {self.key_variable}, {state}"
            )
        if error.code == 404:
            return NotFound(f"{found}; expected a server and a --model that exist")
        if error.code < 400:
            to = _redacted(key, error.headers.get("Location", "").encode())
            return UserError(f"{found}: moved to {clip(to.decode(), 200)}; use that address")
        return Refused(
            f"{found}; a field that the server does not know can be changed with --http.fields "
            "NAME=VALUE, or left out with NAME=null",
            fault,
        )

    def _connection_error(self, error: Exception) -> Exception:
        """The exception for a connection that failed."""
        cause = getattr(error, "reason", error) if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UserError(f"{self.url}: the certificate is invalid ({cause.verify_message})")
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            return NoSuchHost(f"{self.url}: no such host ({cause.strerror})")
        if isinstance(cause, TimeoutError):
            return Transient("a time-out", f"{self.url}: no complete answer in {self.timeout:g} s")
        if isinstance(cause, ConnectionRefusedError):
            return Unreachable("a refused connection", f"{self.url}: nothing listens there")
        return Transient("a cut connection", f"{self.url}: {clip(str(cause), 200)}")


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Those of this machine; reading them takes longer than a request."""
    return ssl.create_default_context()


def with_retries(
    request: Callable[[], T], sleep: Callable[[float], object], count: Callable[[str], bool]
) -> T:
    """What `request` returns. It is called again after each `Transient`, eight times in all.

    `sleep(seconds)` waits; `count(reason)` counts a retry and says whether it is the first for that
    reason, which is logged. Raises `UserError` after the last, `Refused` where that was a `Failed`.
    """
    for k in range(_TRIES - 1):
        try:
            return request()
        except Transient as problem:
            backoff = min(_FIRST_WAIT * 2**k, _MAX_WAIT) * random.uniform(0.5, 1.0)
            # not before the time that the server named, and not all requests at that moment
            seconds = max(backoff, (problem.wait or 0.0) + random.uniform(0.0, 1.0))
            if count(problem.reason):
                log.warning("%s; asking again in %.1f s", problem, seconds)
            sleep(seconds)
    try:
        return request()
    except Failed as problem:
        raise Refused(f"{problem}; {_TRIES} times. {_KEPT}", "failure") from None
    except Transient as problem:
        raise UserError(f"{problem}; {_TRIES} times. {_KEPT}") from None


def error_of(url: str, body: Any) -> Exception:
    """The exception for an answer without choices, or a choice without a reply, whose status says
    success: a refusal of the prompt where it says so, else a failure to be asked again.
    """
    try:
        content = json.dumps(body).encode()
    except RecursionError:
        return Failed("an answer without choices", f"{url}: answered a value of many levels")
    found = f"{url}: answered {clip(content.decode(), 200)}"
    if isinstance(body, dict) and body.get("error"):
        message, code = _error_message(content)
        if _fault(message, code) == "prompt":
            return Refused(found, "prompt")
    return Failed("an answer without choices", found)


def _fault(message: str, code: object) -> Fault:
    """What a refusal blames, by its words."""
    words = f"{code} {message}"
    if _PROMPT_AT_FAULT.search(words) and not _UNKNOWN_SETTING.search(str(code)):
        return "prompt"
    return "setting" if _SETTING_AT_FAULT.search(words) else "unclear"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, which is reached without a proxy."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(response: Any, deadline: float) -> bytes:
    """The whole body, or as much of it as shows that it is too long.

    Raises `TimeoutError` at the deadline, however slowly the server sends, and `IncompleteRead`.
    """
    content = bytearray()
    while len(content) <= _MAX_BYTES and (part := response.read1(1 << 16)):
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length and len(content) <= _MAX_BYTES:
        raise IncompleteRead(b"", response.length)
    return bytes(content)


def _redacted(key: str, content: bytes) -> bytes:
    """The content without the key, which a server may repeat."""
    return content.replace(key.encode(), b"***") if key else content


def _error_message(content: bytes) -> tuple[str, object]:
    """The message in the body of an error, safe to print, and the code."""
    body, code = None, None
    with suppress(ValueError, RecursionError):
        body = json.loads(content)
    for name in ("error", "message", "detail"):  # servers nest them differently
        if isinstance(body, dict) and body.get(name):
            body = body[name]
            code = body.get("code") if isinstance(body, dict) else code
    message = body if isinstance(body, str) else content[:400].decode("utf-8", "replace")
    return (clip(message, 300) if message else ""), code


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date; None for anything else."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None
