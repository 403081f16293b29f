"""The engine of served rollouts: token ids in, token ids and log-probs out, one request a group, versions by name.

A version of the policy is published once under a name that nothing else ever has. So no server is paused for an
update: requests that are under way keep their version, and a server that has lost it answers that it has none. Where
the weights of the whole model travel, a server holds one version at a time, and a load waits for what samples from it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import monotonic, perf_counter, sleep
from typing import Any

from groupwise.errors import RolloutError
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.served.answers import completions_of
from groupwise.rollout.served.client import (
    ServerDownError,
    ServerFailureError,
    ServerRefusalError,
    ServerTimeoutError,
)
from groupwise.rollout.served.handshake import Needs, check_slots, refusal, shake_hands
from groupwise.rollout.served.published import Published, Publisher
from groupwise.rollout.served.server_pool import CHECK_S, IN_A_ROW, Pool, Server
from groupwise.rollout.served.version_probe import FLOAT32_GAP, ProbeAnswer, disagreement, why_wrong
from groupwise.types import Completion, Request

REPEATS = 3
"""Further attempts at a request that failed."""
MAX_THREADS = 256
"""Requests that are under way at one time; the rest waits here instead of in a server."""
SAME_KIND = 0.02
"""Servers whose log-probs of the probe differ by less before any training are of one kind, and stay as close."""

_pinned: ContextVar[int | None] = ContextVar("version that this thread samples from", default=None)


class ServedEngine:
    """Samples by servers."""

    def __init__(
        self,
        servers: Sequence[Server],
        publisher: Publisher,
        needs: Needs,
        *,
        vocabulary: int,
        server_timeout_s: float = 300.0,
        lag: int = 0,
        check_s: float = CHECK_S,
    ) -> None:
        """`lag`: how many versions behind the newest a request may be."""
        self.needs, self.version = needs, 0
        self._publisher, self._vocabulary, self._lag = publisher, vocabulary, lag
        self._is_lora, self._timeout_s = needs.mode == "lora", server_timeout_s
        self._held: dict[int, Published] = {}
        """The versions that a request may name."""
        self._retired: list[Published] = []
        """No request names them any more; their folders are deleted one version later."""
        self._pins: dict[int, int] = {}
        self._unpinned = threading.Condition()
        self._is_float32 = True
        self._tolerance: float | None = None
        self.events: list[tuple[str, str]] = []
        """(kind, sentence) of what happened since somebody last took them."""
        self.num_repeats = 0
        self.publish_s = 0.0
        """Seconds that the last version took until every server held it."""
        self._pool = Pool(
            servers,
            server_timeout_s,
            self._bring_back,
            lambda kind, text: self.events.append((kind, text)),
            failures_allowed=IN_A_ROW if self._is_lora else 1,  # one that restarted would answer with its first weights
            check_s=check_s,
        )

    @property
    def servers(self) -> list[Server]:
        return self._pool.servers

    @property
    def num_live(self) -> int:
        return len(self._pool.live)

    @property
    def probe_gap(self) -> float | None:
        """The largest distance of a live server from the learner in its last probe (mean exp |difference|)."""
        return max((server.probed[-1].gap for server in self._pool.live if server.probed), default=None)

    @property
    def capabilities(self) -> Capabilities:
        versions = " and ".join(sorted({server.version for server in self.servers if server.version}))
        return Capabilities(f"vLLM {versions}".rstrip(), is_float32=self._is_float32)

    def shake_hands(self) -> None:
        """Refuse a server that cannot serve the run.

        Raises:
            RolloutError: with the command that starts a right one.
        """
        for server in self.servers:
            shake_hands(server, self.needs)

    def hold(self, version: int) -> None:
        """Keep a version until `release`: a thread that will sample from it has yet to begin."""
        with self._unpinned:
            self._pins[version] = self._pins.get(version, 0) + 1

    def release(self, version: int) -> None:
        with self._unpinned:
            self._pins[version] -= 1
            if not self._pins[version]:
                del self._pins[version]
            self._unpinned.notify_all()

    @contextmanager
    def pinned(self, version: int) -> Iterator[None]:
        """Inside, this thread samples from that version, which somebody holds."""
        token = _pinned.set(version)
        try:
            yield
        finally:
            _pinned.reset(token)

    def load_weights(self, policy: Any, version: int) -> None:
        """Publish the policy and let every live server take it; a server that does not is left out.

        Raises:
            RolloutError: no server is left that holds it.
        """
        start = perf_counter()
        published = self._publisher.publish(policy, version)
        if not self._held:
            self._pool.open()
        if not self._is_lora:
            self._wait_for_pins()
            self._retired += [old for old in self._held.values() if old.version != version]
            self._held = {}
        self._held[version], self.version = published, version
        self._each_live(lambda server: self._bring_alone(server, published))
        self._pool.choose(0)  # one at least, in the end
        self._compare(published)
        self._retire()
        self.publish_s = perf_counter() - start

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        version = _pinned.get()
        published = self._held[self.version if version is None else version]
        if not self._is_lora:
            self._each_live(lambda server: self._require_same(server, published))
        threads = ThreadPoolExecutor(min(len(requests), MAX_THREADS) or 1, thread_name_prefix="groupwise-request")
        try:
            futures = {threads.submit(self._answer, each, published): n for n, each in enumerate(requests)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End calls and waits, and delete what was published."""
        self._pool.close()
        for published in (*self._retired, *self._held.values()):
            for server in self._pool.live if self._is_lora else []:
                with suppress(ServerFailureError, ServerRefusalError):
                    server.dialect.unload_adapter(published.name)
            self._publisher.discard(published)
        for server in self.servers:
            server.dialect.client.close()
        self._held, self._retired = {}, []

    def _answer(self, request: Request, published: Published) -> list[Completion]:
        """The completions of one request, of whichever server gives them whole first."""
        tried: list[Server] = []
        errors: list[str] = []
        while len(errors) <= REPEATS:
            server = self._pool.choose(request.seed[-1], tried)
            try:
                found = self._ask(server, request, published)
                self._pool.succeeded(server)
                return found
            except ServerRefusalError as error:
                raise RolloutError(f"{server.url} refuses {request.label}: {error}.") from None
            except ServerDownError as error:  # no attempt: nobody was there
                self._pool.quarantine(server, str(error))
                continue
            except ServerFailureError as error:
                self.num_repeats += 1
                tried.append(server)
                errors.append(f"{server.url}: {error}")
                self._pool.failed(server, error)
            if self.num_live < 2:
                sleep(min(0.1 * 4 ** len(errors), 5.0))
        raise RolloutError(f"No server has sampled {request.label} in {len(errors)} attempts. {'; '.join(errors)}.")

    def _ask(self, server: Server, request: Request, published: Published) -> list[Completion]:
        max_tokens, seed = request.limit, seed_of(request.seed)
        name = published.name if self._is_lora else server.model
        for has_loaded in (False, True):
            try:
                choices = server.dialect.generate(name, published.name, request, max_tokens, seed)
                return completions_of(choices, request, max_tokens, self._vocabulary, published.version)
            except ServerRefusalError as error:
                if error.status != 404 or not self._is_lora or has_loaded:
                    raise
            self._bring_lost(server, published)
        raise AssertionError

    def _bring_lost(self, server: Server, published: Published) -> None:
        """Load what the server has lost, once for all requests that miss it."""
        with server.loading:
            if published.name not in server.dialect.models():
                text = f"{server.url} had lost {published.name}, and loads it again."
                self.events.append(("server_without_version", text))
                self._bring(server, published)

    def _bring_alone(self, server: Server, published: Published) -> None:
        with server.loading:
            self._bring(server, published)

    def _bring(self, server: Server, published: Published) -> None:
        """Let a server hold a version, and prove it by the probe.

        Raises:
            ServerFailureError: it does not.
        """
        try:
            if self._is_lora:
                self._load_adapter(server, published)
            else:
                self._reload(server, published)
            self._probe(server, published)
        except ServerRefusalError as error:
            if not server.probed:  # never yet: its flags are wrong
                raise refusal(server, f"it does not take new weights: {error}.", self.needs) from None
            raise ServerFailureError(f"it does not take version {published.version}: {error}") from None

    def _load_adapter(self, server: Server, published: Published) -> None:
        if not server.probed:
            self._probe_base(server)
        deadline = monotonic() + self._timeout_s
        if published.name not in server.dialect.models():
            with suppress(ServerTimeoutError):  # it may still be at it, and a second load would meet the first
                server.dialect.load_adapter(published.name, published.folder, self._timeout_s / 2)
        while published.name not in server.dialect.models():
            if monotonic() > deadline:
                raise ServerFailureError(f"{published.name} was not loaded within {self._timeout_s:g} s")
            sleep(0.5)

    def _probe_base(self, server: Server) -> None:
        """What the server answers without any adapter: what it must not answer for one that has learnt."""
        answer = server.dialect.prompt_logprobs(server.model, self.needs.probe_ids, self._timeout_s)
        if self.needs.base_expected is not None:
            base = Published(-1, server.model, "", self.needs.base_expected, ())
            server.probed.append(ProbeAnswer(base, answer))

    def _reload(self, server: Server, published: Published) -> None:
        """Ask before loading: a reload that timed out may have arrived."""
        known = [each.answer for each in server.probed if each.published.version == published.version]
        if known and server.is_repeatable and self._answer_of(server, published) in known:
            return
        server.dialect.reload_weights(published.folder, self._timeout_s)

    def _answer_of(self, server: Server, published: Published) -> tuple[float, ...]:
        name = published.name if self._is_lora else server.model
        return server.dialect.prompt_logprobs(name, self.needs.probe_ids, self._timeout_s)

    def _probe(self, server: Server, published: Published) -> None:
        now = ProbeAnswer(published, self._answer_of(server, published))
        before = next((e for e in reversed(server.probed) if _is_before(e.published, published)), None)
        is_repeatable = server.is_repeatable and not (self._lag and self._pins)
        if problem := why_wrong(now, before, is_repeatable=is_repeatable):
            raise ServerFailureError(problem)
        base = [each for each in server.probed if each.published.version < 0]
        rest = [e for e in server.probed if e.published.version >= 0 and e.published.version != published.version]
        server.probed = [*base, *rest[-1:], now]
        self._is_float32 = now.gap <= FLOAT32_GAP
        if self._is_lora and len(base + rest) <= 1 and (problem := check_slots(server, self.needs)):
            raise refusal(server, problem, self.needs)

    def _require_same(self, server: Server, published: Published) -> None:
        """Before a wave, weights of the whole model: a server that has started again answers under the same name.

        Raises:
            ServerFailureError: its answer to the probe is no longer the one that was accepted.
        """
        known = [each.answer for each in server.probed if each.published.version == published.version]
        answer = self._answer_of(server, published)
        tolerance = 0.0 if server.is_repeatable else SAME_KIND
        if not known or disagreement([answer, known[-1]]) > tolerance:
            raise ServerFailureError("it no longer holds the weights that it was given: it has started again")

    def _compare(self, published: Published) -> None:
        """Servers of one kind must agree far better with each other than with the learner."""
        held = [
            (server, each)
            for server in self._pool.live
            for each in server.probed
            if each.published.version == published.version
        ]
        if len(held) < 2 or self._lag:
            return
        apart = disagreement([each.answer for _, each in held])
        if self._tolerance is None:
            self._tolerance = SAME_KIND if apart <= SAME_KIND else float("inf")
        if apart > self._tolerance:
            worst, _ = max(held, key=lambda pair: pair[1].gap)
            self._pool.quarantine(worst, f"its answer to the probe is {apart:.3g} from the other servers'")

    def _each_live(self, work: Callable[[Server], None]) -> None:
        """Do it with every live server at once; one that fails is left out."""
        live = self._pool.live
        with ThreadPoolExecutor(max(len(live), 1), thread_name_prefix="groupwise-server") as threads:
            for server, future in [(server, threads.submit(work, server)) for server in live]:
                try:
                    future.result()
                except ServerFailureError as error:
                    self._pool.quarantine(server, str(error))

    def _bring_back(self, server: Server) -> None:
        """Every version that a request may name, and once more what was published meanwhile."""
        shake_hands(server, self.needs)
        done: set[int] = set()
        while missing := [p for p in list(self._held.values()) if p.version not in done]:
            self._bring_alone(server, missing[0])
            done.add(missing[0].version)

    def _wait_for_pins(self) -> None:
        with self._unpinned:
            if not self._unpinned.wait_for(lambda: not self._pins, timeout=self._timeout_s + 3600):
                raise RolloutError("A collection under way did not end, so new weights cannot be loaded.")

    def _retire(self) -> None:
        """Unload versions that no request can name any more; delete folders one version after that."""
        for published in self._retired:
            self._publisher.discard(published)
        self._retired = []
        for version in [v for v in self._held if v < self.version - self._lag - 1 and v not in self._pins]:
            old = self._held.pop(version)
            for server in self._pool.live:
                with suppress(ServerFailureError, ServerRefusalError):
                    server.dialect.unload_adapter(old.name)
            self._retired.append(old)


def _is_before(earlier: Published, later: Published) -> bool:
    """Whether the earlier one can be compared with: not the same version, and not the base where nothing was learnt."""
    if earlier.version < 0:
        return not later.is_base
    return earlier.version != later.version


def seed_of(numbers: Sequence[int]) -> int:
    """62 bits of a hash, for one request.

    A server draws completion i by this number + i, so the seeds of two draws must lie far apart, and none near the
    largest whole number of 64 bits.
    """
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 2
