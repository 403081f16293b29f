"""The servers of a run: which one takes a request, which one is left out for now, and when it comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic

from groupwise.errors import RolloutError
from groupwise.rollout.served.client import ServerFailureError, ServerRefusalError
from groupwise.rollout.served.version_probe import ProbeAnswer
from groupwise.rollout.served.vllm import VllmDialect

CHECK_S = 5.0
"""Between two looks at a server in quarantine."""
IN_A_ROW = 3
"""Failures in a row after which a server is left out."""


@dataclass(eq=False)
class Server:
    """One server and what is known of it."""

    dialect: VllmDialect
    version: str = ""
    """Of its software."""
    model: str = ""
    """Its name for the model that it was started with."""
    gpu: str | None = None
    """UUID of its GPU; None where `groupwise serve` has not started it, or on a CPU."""
    is_live: bool = True
    is_repeatable: bool = True
    """Whether it answers one question twice the same, to the last bit."""
    failures: int = 0
    """In a row."""
    last_error: str = ""
    probed: list[ProbeAnswer] = field(default_factory=list)
    """Its answers to the probe, the newest last: of the base, and of two versions at most."""
    loading: threading.Lock = field(default_factory=threading.Lock)
    """Held while it takes a version: one at a time."""

    @property
    def url(self) -> str:
        return self.dialect.client.url


class Pool:
    """Every server of a run."""

    def __init__(
        self,
        servers: Sequence[Server],
        server_timeout_s: float,
        bring_back: Callable[[Server], None],
        report: Callable[[str, str], None],
        *,
        failures_allowed: int = IN_A_ROW,
        check_s: float = CHECK_S,
    ) -> None:
        """`bring_back` makes a server fit again, or raises; `report` takes (kind of event, sentence)."""
        self.servers = list(servers)
        self._server_timeout_s, self._check_s = server_timeout_s, check_s
        self._bring_back, self._report, self._allowed = bring_back, report, failures_allowed
        self._changed = threading.Condition()
        self._closed = threading.Event()

    @property
    def live(self) -> list[Server]:
        return [server for server in self.servers if server.is_live]

    def open(self) -> None:
        """Make a closed pool usable again; every server is taken for live."""
        self._closed = threading.Event()
        for server in self.servers:
            server.is_live, server.failures = True, 0
            server.dialect.client.open()

    def close(self) -> None:
        """End every call and every wait."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        for server in self.servers:
            server.dialect.client.close()

    def choose(self, number: int, avoid: Collection[Server] = ()) -> Server:
        """The server of that number modulo their count, or the next live one; one of `avoid` only for want of others.

        Raises:
            RolloutError: none has come back within the time for servers.
        """
        closed, deadline = self._closed, monotonic() + self._server_timeout_s
        start = number % len(self.servers)
        ring = self.servers[start:] + self.servers[:start]
        with self._changed:
            while True:
                if closed.is_set():
                    raise RolloutError("The rollout was broken off.")
                live = [server for server in ring if server.is_live]
                if fitting := [s for s in live if s not in avoid] or live:
                    return fitting[0]
                if not self._changed.wait(deadline - monotonic()):
                    raise self.none_left()

    def none_left(self) -> RolloutError:
        found = "; ".join(f"{server.url}: {server.last_error}" for server in self.servers)
        return RolloutError(
            f"No server can sample, and none came back within {self._server_timeout_s:g} s. {found}. Start them again "
            "(groupwise serve) and resume; server_timeout sets how long is waited."
        )

    def succeeded(self, server: Server) -> None:
        server.failures = 0

    def failed(self, server: Server, error: Exception) -> None:
        """Count a failure; leave the server out after several in a row."""
        server.failures += 1
        server.last_error = str(error)
        if server.failures >= self._allowed:
            self.quarantine(server, str(error))

    def quarantine(self, server: Server, why: str) -> None:
        """Leave it out until it is healthy and holds the right weights again."""
        with self._changed:
            server.last_error = why
            if not server.is_live or self._closed.is_set():
                return
            server.is_live = False
        self._report("server_left_out", f"{server.url} is left out for now: {why}.")
        threading.Thread(
            target=self._watch, args=(server, self._closed), name=f"groupwise-watch-{server.url}", daemon=True
        ).start()

    def _watch(self, server: Server, closed: threading.Event) -> None:
        while not closed.wait(self._check_s):
            try:
                server.dialect.is_healthy()
                self._bring_back(server)
            except (ServerFailureError, ServerRefusalError, RolloutError) as error:
                server.last_error = str(error)
                continue
            with self._changed:
                server.is_live, server.failures = True, 0
                self._changed.notify_all()
            self._report("server_back", f"{server.url} is back, with the weights of now.")
            return
