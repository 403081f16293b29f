"""One server over HTTP: JSON in, JSON out, a timeout on every wait.

Nothing is repeated here but a request whose idle connection the server had closed before it arrived.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

CONNECT_S = 5.0
IDLE_S = 2.0
"""An unused connection is not used again after this: servers close theirs after 5 s, and a request would meet that."""

_LATER = (408, 425, 429)
"""Statuses below 500 after which a repeat can help."""

CLOSED_BY_SERVER = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class ServerFailureError(Exception):
    """A server did not answer, or could not: another server, or a later attempt, may."""


class ServerDownError(ServerFailureError):
    """Nobody takes connections at the address."""


class ServerTimeoutError(ServerFailureError):
    """A server has not answered within its time; what it was to do may still be under way there."""


class ServerRefusalError(Exception):
    """A server will not do this (a status from 400 to 499): a repeat changes nothing."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status, self.text = status, text


class Client:
    """Connections to one address. Threads may share it."""

    def __init__(self, url: str, key: str | None = None, connect_s: float = CONNECT_S) -> None:
        """`key` is sent as a bearer token."""
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._is_tls, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._path, self._connect_s = parts.path.rstrip("/"), connect_s
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float,
        is_repeatable: bool = False,
    ) -> Any:
        """The answer: JSON where it is, else its text.

        A repeatable request may go over a connection that has been used, and is sent once more over a new one when the
        server has closed that.

        Raises:
            ServerFailureError: no connection (ServerDownError), no answer within `timeout_s`, a status of 500 or more.
            ServerRefusalError: a status from 400 to 499.
        """
        data = None if body is None else json.dumps(body).encode()
        used = self._take_idle() if is_repeatable else None
        try:
            if used is not None:
                try:
                    return self._exchange(used, method, path, data, timeout_s, is_kept=True)
                except CLOSED_BY_SERVER:
                    used.close()
            return self._exchange(self._connect(), method, path, data, timeout_s, is_kept=is_repeatable)
        except TimeoutError:
            raise ServerTimeoutError(f"no answer to {path} within {timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailureError(f"{type(error).__name__}: {error}".rstrip(": ")) from None

    def close(self) -> None:
        """Close every connection; a call that is under way fails. Later calls keep no connection."""
        with self._lock:
            self._is_closed = True
            idle, self._idle, busy = self._idle, [], list(self._busy)
        for connection in busy:
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        for _, connection in idle:
            connection.close()

    def open(self) -> None:
        """Keep connections again."""
        self._is_closed = False

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._connect_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            is_slow = isinstance(error, TimeoutError)
            what = f"no connection within {self._connect_s:g} s" if is_slow else f"{type(error).__name__}: {error}"
            raise ServerDownError(what) from None
        return connection

    def _take_idle(self) -> http.client.HTTPConnection | None:
        """The connection used last, unless it has been idle for too long; older ones are closed."""
        with self._lock:
            fresh = [(since, c) for since, c in self._idle if monotonic() - since < IDLE_S]
            stale = [c for since, c in self._idle if monotonic() - since >= IDLE_S]
            found = fresh.pop()[1] if fresh else None
            self._idle = fresh
        for connection in stale:
            connection.close()
        return found

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | None,
        timeout_s: float,
        *,
        is_kept: bool,
    ) -> Any:
        with self._lock:
            self._busy.add(connection)
        try:
            connection.sock.settimeout(timeout_s)
            connection.request(method, self._path + path, data, self._headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        finally:
            with self._lock:
                self._busy.discard(connection)
        with self._lock:
            is_kept = is_kept and not (response.will_close or self._is_closed)
            if is_kept:
                self._idle.append((monotonic(), connection))
        if not is_kept:
            connection.close()
        return _read(response.status, content)


def _read(status: int, content: bytes) -> Any:
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text) if text else None
    except ValueError:
        value = text
    if status < 400:
        return value
    words = _words(value)
    if status < 500 and status not in _LATER:
        raise ServerRefusalError(status, words)
    raise ServerFailureError(f"status {status}: {words}")


def _words(value: Any) -> str:
    """The message in an error's body."""
    found = value
    if isinstance(found, Mapping):
        found = found.get("error", found)
    if isinstance(found, Mapping):
        found = found.get("message") or found.get("detail") or found
    return " ".join(str(found).split())[:500]
