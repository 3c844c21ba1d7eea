"""The addresses of one model: which of them a request goes to, and which are dead. No torch."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rationalize.errors import UsageError, UserError
from rationalize.sampling.config import HttpConfig
from rationalize.sampling.http import Endpoint, NoSuchHost, NotFound, Transient, Unreachable

log = logging.getLogger(__name__)

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_MOST_FAILURES = 3  # in a row, after which an address is left out


class Unfit(UserError):
    """An address that has failed was checked, and must not be used again."""


class Addresses:
    """Servers that have the same model. A request goes to the one with the fewest under way; one
    that is dead or unfit is left out, as long as there is another.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], check: Callable[[str], object] | None = None
    ) -> None:
        """`check(url)` is called before an address that has failed is used again, and raises where
        it must not be: it may have been started anew, with another state.
        """
        self._live = list(endpoints)
        self._check = check
        self._doubtful: set[str] = set()  # those that have failed since they were checked
        self._unfit: dict[str, Unfit] = {}  # what the check said of those that it refused
        self._checking = threading.Lock()
        self.first = self._live[0].url
        """What replies are stored under."""
        self.left_out: list[str] = []
        """Dead and unfit addresses, each with what was found there."""
        self._under_way: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()  # in a row
        self._lock = threading.Lock()  # guards all of these

    def post(self, body: Mapping[str, Any]) -> tuple[str, Any]:
        """The address that answered, and its answer. Raises as `Endpoint.post` does."""
        while True:
            with self._lock:
                endpoint = min(self._live, key=self._load)
                self._under_way[endpoint.url] += 1
                self._sent[endpoint.url] += 1
            try:
                self._check_again(endpoint.url)
                answer = endpoint.post(body)
            except (Unreachable, NoSuchHost, Unfit) as error:
                self._doubtful.add(endpoint.url)
                if not self._leave_out(endpoint, error):
                    raise
            except NotFound as error:
                if self._check is None:
                    raise
                self._doubtful.add(endpoint.url)  # it was started anew, without this model
                raise Transient("404", str(error)) from None
            except Transient as error:
                if error.of_server:
                    self._doubtful.add(endpoint.url)
                if error.of_server and self._failed(endpoint) >= _MOST_FAILURES:
                    self._leave_out(endpoint, error)
                raise
            else:
                with self._lock:
                    self._failures[endpoint.url] = 0
                return endpoint.url, answer
            finally:
                with self._lock:
                    self._under_way[endpoint.url] -= 1

    def _check_again(self, url: str) -> None:
        """Where an address has failed: raise what `check` raises, a `UserError` as `Unfit`."""
        if self._check is None or url not in self._doubtful:
            return
        with self._checking:  # one request checks, the others wait for it
            if url in self._unfit:
                raise self._unfit[url]
            if url in self._doubtful:
                try:
                    self._check(url)
                except (NoSuchHost, NotFound):
                    raise
                except UserError as error:
                    self._unfit[url] = Unfit(str(error))
                    raise self._unfit[url] from error
                self._doubtful.discard(url)

    def _load(self, endpoint: Endpoint) -> tuple[int, int, int]:
        url = endpoint.url
        return self._failures[url], self._under_way[url], self._sent[url]

    def _failed(self, endpoint: Endpoint) -> int:
        with self._lock:
            self._failures[endpoint.url] += 1
            return self._failures[endpoint.url]

    def _leave_out(self, endpoint: Endpoint, error: Exception) -> bool:
        """Whether other addresses are left to ask."""
        with self._lock:
            if self._live == [endpoint]:
                return False
            if endpoint in self._live:  # not yet left out for another request's sake
                self._live.remove(endpoint)
                self.left_out.append(str(error))
                log.warning("%s; left out: %d addresses go on", error, len(self._live))
            return True


def endpoints_of(servers: str, http: HttpConfig) -> list[Endpoint]:
    """Where requests go, of a list of addresses with commas."""
    return [
        Endpoint(_url(address, http.endpoint), http.timeout, http.key_variable, http.key_header)
        for address in addresses_of(servers)
    ]


def addresses_of(servers: str) -> list[str]:
    """The addresses in a list with commas.

    >>> addresses_of("http://a/v1, http://b/v1")
    ['http://a/v1', 'http://b/v1']
    """
    found = [address.strip() for address in servers.split(",")]
    return list(dict.fromkeys(filter(None, found))) or [servers]


def _url(address: str, endpoint: str) -> str:
    """Where requests go: the address's path, or `/v1`, then the endpoint's unless it is there, then
    the query. Raises `UsageError` for the path of another endpoint.
    """
    base, _, query = address.partition("?")
    base = base.rstrip("/")
    if "/" not in base.partition("://")[2]:
        base += "/v1"
    named = next((name for name, path in _PATHS.items() if base.endswith(path)), None)
    if named not in (None, endpoint):
        raise UsageError(
            f"--server: found an address that ends in {_PATHS[str(named)]}, expected "
            f"{_PATHS[endpoint]} (--http.endpoint {endpoint}); give it without, or --http.endpoint "
            f"{named}"
        )
    base += "" if named else _PATHS[endpoint]
    return f"{base}?{query}" if query else base
