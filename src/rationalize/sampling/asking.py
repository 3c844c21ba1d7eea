"""Requests to servers: many at a time, each asked until it has its replies, and each reply stored
on disk as soon as it arrives. No torch here.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Protocol

from rationalize.progress import Progress
from rationalize.sampling.addresses import Addresses
from rationalize.sampling.http import Failed, Refused, error_of, with_retries
from rationalize.sampling.refusals import Refusals
from rationalize.sampling.replies import Reply, ReplyCache
from rationalize.sampling.writing import question_seed
from rationalize.termination import Terminated
from rationalize.text import clip

log = logging.getLogger(__name__)

_SHOWN = 10  # refusals that are shown one by one


@dataclass
class Bill:
    """Requests, tokens and retries of a sampler, and odd replies."""

    answers: int = 0
    """Requests that were answered, and so are paid for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Answers that did not say how many tokens they cost."""
    cached: int = 0
    """Replies that were on disk."""
    retries: Counter[str] = field(default_factory=Counter)
    """Requests that were sent again, by reason."""
    oddities: Counter[str] = field(default_factory=Counter)
    """Replies that are not what was asked for, by what is odd about them."""
    skipped: int = 0
    """Prompts that the server refused, and that have no reply."""
    left_out: list[str] = field(default_factory=list)
    """Addresses that were dead."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.answers or self.cached or self.retries or self.left_out)

    def __str__(self) -> str:
        parts = [
            f"{self.answers:,} answers, {self.prompt_tokens:,} prompt and "
            f"{self.completion_tokens:,} completion tokens"
        ]
        if self.uncounted:
            parts.append(f"{self.uncounted:,} answers did not count their tokens")
        if self.cached:
            parts.append(f"{self.cached:,} replies were on disk")
        parts += [f"asked again {n:,} times after {why}" for why, n in sorted(self.retries.items())]
        parts += [f"{n:,} replies {what}" for what, n in sorted(self.oddities.items())]
        if self.skipped:
            parts.append(f"{self.skipped:,} prompts skipped, which the server refused")
        parts += [f"left out: {found}" for found in self.left_out]
        return "; ".join(parts)


@dataclass(frozen=True)
class Job:
    """One prompt and its seed. Jobs of the same key are asked once."""

    key: bytes
    """What its replies are stored under."""
    prompt: str
    """For messages."""
    seed: int
    body: Callable[[int, int], Mapping[str, Any]]
    """The request for so many replies with a seed."""


class ReadChoice(Protocol):
    """How the choices of an answer are read."""

    def __call__(self, choice: Any, *, counted: bool, url: str) -> Reply:
        """The reply in a choice; `counted`: the answer said how many tokens it cost."""


class _Stopped(Exception):
    """No request was made, because another failed or the user interrupted."""


class _Skipped(Exception):
    """The server refuses this prompt, and others are asked all the same."""


class Asker:
    """Asks servers for the replies of many jobs, and keeps the bill."""

    def __init__(
        self,
        addresses: Addresses,
        cache: ReplyCache,
        read: ReadChoice,
        concurrency: int,
        sleep: Callable[[float], object] | None = None,
        unified: Callable[[str, Any], Any] | None = None,
    ) -> None:
        """`concurrency` requests are under way at a time; `sleep` waits before a retry;
        `unified(url, answer)` is an answer in the form of `/completions`, where it has another.
        """
        self.bill = Bill(left_out=addresses.left_out)
        self._addresses = addresses
        self._cache = cache
        self._read = read
        self._unified = unified
        self._concurrency = concurrency
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait  # an interrupt ends the wait
        self._lock = threading.Lock()  # guards the bill
        self._refusals = Refusals()

    def replies(
        self, jobs: Sequence[Job], n: int, progress: Progress | None = None
    ) -> dict[bytes, list[Reply]]:
        """Each job's first n replies, by key. Jobs that the server refuses are left out.

        Raises `UserError` where the server refuses what all prompts share, refuses every prompt, or
        fails eight times.
        """
        jobs = list({job.key: job for job in jobs}.values())
        self._stop.clear()
        self._refusals = Refusals()
        finished: dict[bytes, list[Reply]] = {}
        tokens = 0
        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = {pool.submit(self._complete_or_stop, job, n): job for job in jobs}
            try:
                for future in as_completed(futures):
                    if isinstance(future.exception(), (_Stopped, _Skipped)):
                        continue  # another future holds the reason; the refusals are listed
                    replies = finished[futures[future].key] = future.result()
                    tokens += sum(r.completion.n_tokens for r in replies)
                    if progress:
                        progress(len(finished) * n, len(jobs) * n, tokens)
                if self._refusals.skipped and not finished:
                    raise self._refusals.skipped[0]
            except BaseException as error:
                # requests in flight are paid for: wait for them, so that they are stored
                self._stop.set()
                if isinstance(error, (KeyboardInterrupt, Terminated)):
                    log.warning("stopping after the requests in flight, which are paid for")
                pool.shutdown(cancel_futures=True)
                raise
        # counted here, so that replies from the disk count too
        with self._lock:
            self.bill.oddities.update(o for rs in finished.values() for r in rs for o in r.oddities)
            self.bill.skipped += len(self._refusals.skipped)
        for refusal in self._refusals.skipped[:_SHOWN]:
            log.warning("skipped: %s", refusal)
        return finished

    def _complete_or_stop(self, job: Job, n: int) -> list[Reply]:
        """`_complete`; a failure stops all jobs before another request is paid for, unless it is
        this prompt's alone, which raises `_Skipped`.
        """
        try:
            return self._complete(job, n)
        except Refused as refusal:
            if self._refusals.skips(refusal):
                raise _Skipped from None
            self._stop.set()
            raise
        except Exception:
            self._stop.set()
            raise

    def _complete(self, job: Job, n: int) -> list[Reply]:
        """The first n samples; a server that returns fewer than asked is asked for the rest."""
        replies = self._cache.get(job.key)
        if replies:
            self._refusals.was_answered()
        with self._lock:
            self.bill.cached += min(n, len(replies))
        while len(replies) < n:
            stored = len(replies)
            # a seed per request, of 31 bits: some servers hold it in a signed 32-bit integer
            seed = question_seed(job.seed, stored) >> 32
            body = job.body(n - stored, seed)
            try:
                new = with_retries(partial(self._answer, body), self._sleep, self._count_retry)
            except Refused as refusal:
                end = clip(job.prompt[-100:], 110)
                raise Refused(f"{refusal}. The prompt ends in {end}", refusal.fault) from None
            self._refusals.answered()
            self._cache.put(job.key, stored, new)
            replies = self._cache.get(job.key)
        return replies[:n]

    def _answer(self, body: Mapping[str, Any]) -> list[Reply]:
        """The replies of one request. Raises `Transient`, `Refused`, `UserError`."""
        if self._stop.is_set():
            raise _Stopped
        url, answer = self._addresses.post(body)
        answer = self._unified(url, answer) if self._unified else answer
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices:
            raise error_of(url, answer)
        usage = answer.get("usage")
        counts = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
        with self._lock:
            self.bill.answers += 1
            self.bill.uncounted += None in counts
            self.bill.prompt_tokens += counts[0] or 0
            self.bill.completion_tokens += counts[1] or 0
        counted = counts[1] is not None
        replies, failures = [], []
        for choice in choices:
            try:
                replies.append(self._read(choice, counted=counted, url=url))
            except (Failed, Refused) as failure:
                failures.append(failure)
        if not replies:
            raise failures[0]
        return [
            replace(reply, completion=replace(reply.completion, n_tokens=share))
            for reply, share in zip(replies, _shares(counts[1] or 0, replies))
        ]

    def _count_retry(self, reason: str) -> bool:
        """Whether it is the first for this reason."""
        with self._lock:
            self.bill.retries[reason] += 1
            return self.bill.retries[reason] == 1


def _shares(total: int, replies: Sequence[Reply]) -> list[int]:
    """`total` tokens divided in proportion to the lengths of text and reasoning; the shares add up
    to it.
    """
    lengths = [len(r.completion.text) + len(r.reasoning) + 1 for r in replies]
    ends = [round(total * end / sum(lengths)) for end in accumulate(lengths)]
    return [end - start for start, end in pairwise([0, *ends])]


def _count(usage: Any, name: str) -> int | None:
    """A count of tokens, or None where the server gave no sane one."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 2**40 else None
