"""Sample from any OpenAI-style HTTP server: `/chat/completions`, or `/completions` for base models.

Every answer is stored on disk under its request as soon as it arrives. A second start, after a kill
or with more samples, pays only for what is missing. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from rationalize.answers import end_after_answer
from rationalize.errors import UsageError
from rationalize.files import cache_folder
from rationalize.progress import Progress
from rationalize.records import Completion
from rationalize.sampling.addresses import Addresses
from rationalize.sampling.choices import read_choice
from rationalize.sampling.config import HttpConfig, SamplingConfig
from rationalize.sampling.http import Failed, Refused, error_of, with_retries
from rationalize.sampling.refusals import Refusals
from rationalize.sampling.replies import Reply, ReplyCache
from rationalize.sampling.writing import question_seed
from rationalize.templates import BLOCK_END
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
class _Job:
    """One prompt and its seed. Equal requests share one job."""

    key: bytes
    prompt: str
    seed: int


class _Stopped(Exception):
    """No request was made, because another failed or the user interrupted."""


class _Skipped(Exception):
    """The server refuses this prompt, and others are asked all the same."""


class ServerSampler:
    """Writes completions with a model behind a server.

    Sample j of a prompt is the j-th reply that was ever stored for this server, model, prompt,
    sampling and seed.
    """

    def __init__(
        self,
        server: str,
        model: str,
        http: HttpConfig | None = None,
        *,
        cache: Path | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`server` is the address up to `/v1`, which is added where there is no path, or several
        with commas that have the same model; `cache` is a folder (None: `replies` in the user's
        cache); `sleep` waits before a retry.
        """
        self.name = model
        self.http = http or HttpConfig()
        self._addresses = Addresses(server, self.http)
        self.bill = Bill(left_out=self._addresses.left_out)
        self._fields = {name: _json_or_text(text) for name, text in self.http.fields.items()}
        self._cache = ReplyCache(cache or cache_folder() / "replies")
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait  # an interrupt ends the wait
        self._lock = threading.Lock()  # guards the bill
        self._refusals = Refusals()

    def fits(self, *_: object) -> bool:
        """True: only the server knows its model's context, and refuses what is beyond it."""
        return True

    def sample(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        seeds: Sequence[int],
        controls: Sequence[Mapping[str, int] | None] | None = None,
        stop: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """`config.n` completions per prompt, in order; none for a prompt that the server refuses
        while it answers others.

        `/completions` ends at an empty line, whatever `stop` is; a chat's reply is cut before the
        first `stop` after its answer. A reply without text is an empty completion and counted in
        the bill. `n_tokens` is a reply's share of the tokens that its answer cost, by length of
        text; 0 where the server did not count.

        Raises `UsageError` for control tokens or beams, which no server has, and `UserError` where
        the server refuses what all prompts share, refuses every prompt, or fails eight times.
        """
        if controls and any(controls):
            raise UsageError(
                f"{self.name} is behind a server, which has no control tokens; leave --control "
                "out, or name a model that MaRio taught"
            )
        if config.beams > 1:
            raise UsageError(f"sampling.beams is {config.beams}; expected 1: servers have no beams")
        if config.weights != "auto":
            raise UsageError(
                f"sampling.weights is {config.weights}; expected auto: a server has its own"
            )
        n = 1 if config.greedy else config.n  # greedy: one reply, repeated; any seed
        # equal prompts with equal seeds are one job, asked and paid for once
        jobs_P = [
            self._job(prompt, config, 0 if config.greedy else seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        replies = self._run(list(dict.fromkeys(jobs_P)), config, n, progress)
        completions_PG = [
            [_truncated(r.completion, stop) for r in replies.get(job.key, ())] for job in jobs_P
        ]
        return [completions_G * (config.n // n) for completions_G in completions_PG]

    def _run(
        self, jobs: Sequence[_Job], config: SamplingConfig, n: int, progress: Progress | None
    ) -> dict[bytes, list[Reply]]:
        """Each job's first n replies, by key; `http.concurrency` requests at a time. Jobs that the
        server refuses are left out.
        """
        self._stop.clear()
        self._refusals = Refusals()
        finished: dict[bytes, list[Reply]] = {}
        tokens = 0
        with ThreadPoolExecutor(self.http.concurrency) as pool:
            futures = {pool.submit(self._complete_or_stop, job, config, n): job for job in jobs}
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

    def _complete_or_stop(self, job: _Job, config: SamplingConfig, n: int) -> list[Reply]:
        """`_complete`; a failure stops all jobs before another request is paid for, unless it is
        this prompt's alone, which raises `_Skipped`.
        """
        try:
            replies = self._complete(job, config, n)
        except Refused as refusal:
            if self._refusals.skips(refusal):
                raise _Skipped from None
            self._stop.set()
            raise
        except Exception:
            self._stop.set()
            raise
        self._refusals.answered()
        return replies

    def _complete(self, job: _Job, config: SamplingConfig, n: int) -> list[Reply]:
        """The first n samples; a server that returns fewer than asked is asked for the rest."""
        replies = self._cache.get(job.key)
        with self._lock:
            self.bill.cached += min(n, len(replies))
        while len(replies) < n:
            stored = len(replies)
            # a seed per request, of 31 bits: some servers hold it in a signed 32-bit integer
            seed = question_seed(job.seed, stored) >> 32
            body = self._body(job.prompt, config, n - stored, seed)
            try:
                new = with_retries(partial(self._answer, body), self._sleep, self._count_retry)
            except Refused as refusal:
                end = clip(job.prompt[-100:], 110)
                raise Refused(f"{refusal}. The prompt ends in {end}", refusal.fault) from None
            self._cache.put(job.key, stored, new)
            replies = self._cache.get(job.key)
        return replies[:n]

    def _answer(self, body: Mapping[str, Any]) -> list[Reply]:
        """The replies of one request. Raises `Transient`, `Refused`, `UserError`."""
        if self._stop.is_set():
            raise _Stopped
        url, answer = self._addresses.post(body)
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
        chat, counted = self.http.endpoint == "chat", counts[1] is not None
        replies, failures = [], []
        for choice in choices:
            try:
                replies.append(read_choice(choice, chat=chat, counted=counted, url=url))
            except (Failed, Refused) as failure:
                failures.append(failure)
        if not replies:
            raise failures[0]
        return [
            replace(reply, completion=replace(reply.completion, n_tokens=share))
            for reply, share in zip(replies, _shares(counts[1] or 0, replies))
        ]

    def _job(self, prompt: str, config: SamplingConfig, seed: int) -> _Job:
        request = [self._addresses.first, self._body(prompt, config, 1, None), seed]
        digest = hashlib.blake2b(json.dumps(request, sort_keys=True).encode(), digest_size=20)
        return _Job(digest.digest(), prompt, seed)

    def _body(self, prompt: str, config: SamplingConfig, n: int, seed: int | None) -> dict:
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p if config.top_p < 1 and not config.greedy else None,
            "top_k": config.top_k or None,
            "n": n if n > 1 else None,
            "seed": seed,
        }
        if self.http.endpoint == "chat":
            system = [{"role": "system", "content": self.http.system}] if self.http.system else []
            body["messages"] = [*system, {"role": "user", "content": prompt}]
        else:
            body |= {"prompt": prompt + "\n", "stop": [BLOCK_END]}
        return {name: v for name, v in (body | self._fields).items() if v is not None}

    def _count_retry(self, reason: str) -> bool:
        """Whether it is the first for this reason."""
        with self._lock:
            self.bill.retries[reason] += 1
            return self.bill.retries[reason] == 1


def _truncated(completion: Completion, stop: str | None) -> Completion:
    """The completion up to the first `stop` after its answer."""
    end = end_after_answer(completion.text, stop) if stop else -1
    if end < 0:
        return completion
    return replace(completion, text=completion.text[:end].strip(), finish="stop")


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


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
