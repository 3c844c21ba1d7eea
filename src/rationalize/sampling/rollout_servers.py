"""The rollout servers of a run: which weights each has, and how it gets those of the policy.

Weights are written to a folder that the servers see, loaded by each of them, and checked there
(`freshness.py`) before a prompt is sent. A server that is dead, or that does not have the weights
that were asked for, is left out and said; it is tried again at the next call, and gets the weights
of that time before it is used.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rationalize.errors import UsageError, UserError
from rationalize.models.versions import (
    Version,
    Versions,
    frozen_weights,
    is_stored_in,
    prompt_logprobs,
    write_adapter,
    write_whole,
)
from rationalize.sampling.addresses import addresses_of
from rationalize.sampling.config import HttpConfig
from rationalize.sampling.engines import Engine, find_engine
from rationalize.sampling.freshness import (
    PROBE_TOKENS,
    PROBES,
    Reading,
    fault,
    is_still,
    says_something,
)
from rationalize.sampling.http import Endpoint, NoSuchHost, Transient

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

log = logging.getLogger(__name__)

_TRIES = 8
_OURS = "rationalize-"
"""How the names of adapters and versions begin."""


@dataclass(frozen=True)
class Place:
    """A folder that weights pass through."""

    here: Path
    there: str
    """The same folder as the servers see it."""

    @classmethod
    def of(cls, text: str | None, default: Path) -> Place:
        """`FOLDER`, or `HERE=THERE`; none: `default`."""
        if not text:  # its name may hold a "="
            return cls(default.absolute(), str(default.absolute()))
        here, _, there = text.partition("=")
        return cls(Path(here).absolute(), (there or str(Path(here).absolute())).rstrip("/"))


@dataclass
class _Server:
    """A server, and what is known of its weights."""

    root: Endpoint
    engine: Engine | None = None
    has: Version | None = None
    """What it was checked to have."""
    whole: str | None = None
    """Digest of the weights below adapters that were loaded there; None: not known."""
    adapters: list[str] = field(default_factory=list)
    """Names that were loaded there."""
    as_started: bool = True
    """Whether nothing speaks against its having the weights that it was started with."""
    marked: bool = False
    """Whether it keeps the name of the weights that it was given."""
    reading: Reading | None = None
    """The last one that was in order and said something: what the next one is compared with."""
    theirs: Tensor | None = None
    """Its log-probabilities when it was last in order."""
    below: Tensor | None = None
    """The same without an adapter, where versions are adapters."""
    out: str = ""
    """Why it is left out."""

    def forget(self) -> None:
        """It was restarted, or somebody else has changed it."""
        self.has = self.whole = self.theirs = self.below = None
        self.as_started = self.marked = False
        self.adapters.clear()


class RolloutServers:
    """Gives servers the weights of a policy, and says which of them have them."""

    def __init__(
        self, servers: str, place: Place, name: str, model: Path | None, *,
        http: HttpConfig | None = None, sleep: Callable[[float], object] = time.sleep,
    ) -> None:  # fmt: skip
        """`name` is the run's, in the names of adapters; `model` the folder of the model that the
        servers were started with.
        """
        self.http = http or HttpConfig(endpoint="completions")
        self.sleep = sleep
        self.place = place
        self.versions = Versions()
        self._name, self._model = name, model
        self._servers = [_Server(_root(a, self.http)) for a in addresses_of(servers)]
        self._lock = threading.RLock()  # guards the folder, and what follows
        self._ours: dict[tuple[Version, bool], Tensor] = {}
        self._as_started: dict[str, bool] = {}
        self._begun = False

    def refresh(self, policy: Policy, version: Version) -> list[Engine]:
        """The servers that have this version of the policy's weights, loaded where they had not.

        Raises `UserError` with what each server said, where none has.
        """
        if not self._begun:  # not before: of several processes one alone comes here
            shutil.rmtree(self._folder(""), ignore_errors=True)  # what a killed start left
            atexit.register(self._leave)
            self._begun = True
        for k in range(_TRIES):
            with ThreadPoolExecutor(len(self._servers)) as pool:
                errors = list(
                    pool.map(lambda s: self._try(s, policy, version), self._servers)
                )  # fmt: skip
            live = [s for s in self._servers if not s.out]
            if live:
                self._tidy(version)
                engines = [s.engine for s in live if s.engine]
                _check_alike(engines)
                return engines
            if not any(isinstance(error, Transient) for error in errors):
                break
            if k + 1 < _TRIES:
                self.sleep(min(2.0**k, 60.0))
        found = "\n  ".join(s.out for s in self._servers)
        raise UserError(f"no rollout server has the policy's weights:\n  {found}")

    def renew(self, url: str, policy: Policy, version: Version) -> None:
        """Check a server that failed, and load its weights anew where it has others. Raises
        `Transient` and `UserError`.
        """
        server = next(s for s in self._servers if s.engine and s.engine.replies.url == url)
        self._ensure(server, policy, version)

    def unchanged(self, policy: Policy, version: Version) -> bool:
        """Whether every server that is not left out still has the version."""
        changed = False
        for server in self._servers:
            if server.out or server.has != version:
                continue
            try:
                still = self._is_still(server, policy, version)
            except Transient:  # it is gone; what it wrote before has the version's weights
                server.forget()
                continue
            if not still:
                log.warning("%s: its weights have changed while it wrote", server.root.url)
                server.forget()
                changed = True
        return not changed

    def model_of(self, engine: Engine, version: Version) -> str:
        """The model that requests name."""
        return self._adapter(version) if version.adapter else engine.model

    def _try(self, server: _Server, policy: Policy, version: Version) -> Exception | None:
        """What keeps a server from having a version, which is said when it is news."""
        try:
            self._ensure(server, policy, version)
        except (Transient, UserError) as error:
            if server.out != str(error):
                log.warning("left out: %s", error)
            server.out = str(error)
            return error
        if server.out:
            log.warning("%s is back, with fresh weights", server.root.url)
        server.out = ""
        return None

    def _ensure(self, server: _Server, policy: Policy, version: Version) -> None:
        """Give a server a version, unless it has it; raises where it does not have it then."""
        if server.has == version and self._is_still(server, policy, version):
            return
        if server.has == version:
            server.forget()
        engine = server.engine = server.engine or find_engine(server.root)
        server.has = None
        self._load_whole(server, engine, policy, version)
        if version.adapter:
            name = self._adapter(version)
            folder = self._write(policy, version, adapter=True)
            try:
                engine.load_adapter(name, folder)
            except UserError as error:
                if "already" not in str(error):  # an earlier start of this run has loaded it
                    raise
            for old in [n for n in server.adapters if n != name]:
                with suppress(UserError):  # it is gone as it should
                    engine.unload_adapter(old)
            server.adapters[:] = [name]
        reading = self._read(engine, policy, version)
        if wrong := fault(reading, server.reading):
            server.forget()
            raise UserError(f"{server.root.url} ({engine.about}): {wrong}")
        if server.reading is None or says_something(reading, server.reading):
            server.reading = reading
        server.theirs, server.has = reading.theirs, version

    def _load_whole(
        self, server: _Server, engine: Engine, policy: Policy, version: Version
    ) -> None:
        """The weights below the adapter, or all where there is none."""
        alone = Version(version.whole)
        if server.whole == version.whole:
            if server.below is None or is_still(
                server.below, self._read(engine, policy, alone).theirs
            ):
                return
            server.forget()  # started anew since the adapter before this one
        mark = engine.loaded_version()
        started = self._is_as_started(policy, version)
        if server.as_started and started and mark and not mark.startswith(_OURS):
            server.whole = version.whole  # as it was started, and nobody has changed it
        else:
            if policy.controls:
                self._check_rows(engine, policy, version)
            try:
                engine.load_whole(
                    self._write(policy, version, adapter=False), _OURS + version.whole
                )
            except UserError as error:
                # a server that takes no weights has those that it was started with
                if server.whole is not None or not version.adapter:
                    raise
                if not started and not engine.source.endswith(self._start_name(version)):
                    folder = self._start_folder(policy, version)
                    raise UserError(f"{error}\nor start it with the model in {folder}") from None
            server.whole = version.whole
            server.marked = engine.loaded_version() == _OURS + version.whole
        if version.adapter:  # the reading that the adapter's effect is told from
            base = self._read(engine, policy, alone)
            if wrong := fault(base, server.reading):
                server.forget()
                raise UserError(f"{server.root.url} ({engine.about}): {wrong}")
            server.reading, server.below = base, base.theirs

    def _check_rows(self, engine: Engine, policy: Policy, version: Version) -> None:
        """Raise `UserError` where a server's model has no rows for the control tokens."""
        last = max(policy.controls.ids()) if policy.controls else 0
        try:
            engine.logprobs([last, last], engine.model)
        except UserError as error:
            folder = self._start_folder(policy, version)
            raise UserError(
                f"{engine.root.url}: its model has no rows for the control tokens, of which the "
                f"last is {last} ({error}); expected a server that was started with the model in "
                f"{folder}. Start this run again then: it goes on"
            ) from None

    def _is_still(self, server: _Server, policy: Policy, version: Version) -> bool:
        """Whether a server answers as it did when it was found to have a version."""
        engine = server.engine
        if engine is None or server.theirs is None:
            return False
        if server.marked and engine.loaded_version() != _OURS + version.whole:
            return False
        try:
            return is_still(server.theirs, self._read(engine, policy, version).theirs)
        except UserError:  # its adapter is gone
            return False

    def _read(self, engine: Engine, policy: Policy, version: Version) -> Reading:
        """The fixed prompts' log-probabilities under a version: ours, and a server's."""
        probes = [policy.encode_prompt(text)[:PROBE_TOKENS] for text in PROBES]
        with self._lock:
            key = version, policy.tuning == "lora"
            if key not in self._ours:
                told = prompt_logprobs(policy, probes, adapter=bool(version.adapter))
                self._ours = {k: v for k, v in self._ours.items() if k[0].whole == version.whole}
                self._ours[key] = torch.cat(told)
        model = self.model_of(engine, version)
        theirs = [value for ids in probes for value in engine.logprobs(ids, model)]
        return Reading(self._ours[key], torch.tensor(theirs))

    def _is_as_started(self, policy: Policy, version: Version) -> bool:
        """Whether the weights below the adapter are those that the servers were started with."""
        with self._lock:
            if version.whole not in self._as_started:
                self._as_started[version.whole] = self._model is not None and is_stored_in(
                    frozen_weights(policy), self._model
                )
            return self._as_started[version.whole]

    def _adapter(self, version: Version) -> str:
        return f"{_OURS}{self._name}-{version.name}"

    def _folder(self, name: str) -> Path:
        return self.place.here / f"{_OURS}{self._name}" / name

    def _write(self, policy: Policy, version: Version, *, adapter: bool) -> str:
        """The folder of a version, as the servers see it; written once."""
        name = f"adapter-{version.name}" if adapter else f"whole-{version.whole[:12]}"
        folder = self._folder(name)
        with self._lock:
            if not folder.exists():
                fresh = folder.with_name(f".{name}")
                shutil.rmtree(fresh, ignore_errors=True)
                if adapter:
                    write_adapter(policy, fresh)
                else:
                    write_whole(policy, fresh, adapter=False)
                fresh.rename(folder)
        return f"{self.place.there}/{folder.relative_to(self.place.here).as_posix()}"

    def _start_name(self, version: Version) -> str:
        return f"{_OURS}{self._name}-start-{version.whole[:12]}"

    def _start_folder(self, policy: Policy, version: Version) -> str:
        """A folder that stays, which servers can be started with."""
        folder = self.place.here / self._start_name(version)
        with self._lock:
            if not folder.exists():
                write_whole(policy, folder, adapter=False)
        return f"{self.place.there}/{folder.name}"

    def _tidy(self, version: Version) -> None:
        """Delete folders of other versions; a server that comes back gets what it needs anew."""
        kept = {f"adapter-{version.name}"} if version.adapter else set()
        with self._lock:
            for folder in self._folder("").glob("*"):
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)

    def _leave(self) -> None:
        """At the end of the process: forget adapters, and delete what passed through the folder."""
        shutil.rmtree(self._folder(""), ignore_errors=True)
        for server in self._servers:
            if server.adapters and not server.out:
                with suppress(Transient, UserError):
                    engine = find_engine(dataclasses.replace(server.root, timeout=5.0))
                    for name in server.adapters:
                        engine.unload_adapter(name)


def ask_kinds(servers: str) -> list[str]:
    """What each server is, in a line. Raises `UserError` where one takes no weights, or none
    answers.
    """
    lines, engines = [], []
    for address in addresses_of(servers):
        root = _root(address, HttpConfig(timeout=30.0))
        try:
            engines.append(find_engine(root))
            lines.append(f"{root.url}, {engines[-1].about}, with {engines[-1].model}")
        except (Transient, NoSuchHost) as error:
            lines.append(f"not there: {error}")
    if not engines:
        found = "\n  ".join(lines)
        raise UserError(f"--rollouts: no server answers:\n  {found}")
    _check_alike(engines)
    return lines


def _check_alike(engines: Sequence[Engine]) -> None:
    """Raise `UsageError` for servers that cannot be asked alike."""
    known = {(type(engine).__name__, engine.model) for engine in engines}
    if len(known) > 1:
        found = ", ".join(f"{model} by {kind}" for kind, model in sorted(known))
        raise UsageError(
            f"--rollouts: found servers of {found}; expected one kind and one name for the model "
            "(--served-model-name)"
        )


def _root(address: str, http: HttpConfig) -> Endpoint:
    """A server's address without `/v1`."""
    base = address.rstrip("/").removesuffix("/v1")
    try:
        return Endpoint(base, http.timeout, http.key_variable, http.key_header)
    except UsageError as error:
        raise UsageError(str(error).replace("--server", "--rollouts")) from None
