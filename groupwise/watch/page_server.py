"""Serves the page until Ctrl-C, or beside a run until that has ended."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from groupwise.errors import ConfigError
from groupwise.watch.chart_files import require_packages

FIRST_PORT = 8765
NUM_PORTS = 20
"""Ports that are tried from the first on, before the system picks one."""

ANYWHERE = "0.0.0.0"

END_S = 5.0
"""Time for the page of a run to end after it."""

_NICER = 10
"""How far a page beside a run steps back behind it."""


def serve(
    runs: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    tell: Callable[[str], None],
    has_parent: bool = False,
) -> None:
    """Serve these run folders and tell their address; returns after Ctrl-C.

    Args:
        has_parent: end when standard input does, which the process that started this one holds.
    """
    require_packages()
    import uvicorn

    from groupwise.watch.app import LOCAL_NAMES, make_app

    token = secrets.token_urlsafe(24)
    listening = listen(host, port)
    app = make_app(runs, token, [*LOCAL_NAMES, *_names(host)])
    config = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    if has_parent:
        os.nice(_NICER)
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    tell(f"http://{_shown(host)}:{listening.getsockname()[1]}/{token}/")
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


@contextlib.contextmanager
def beside(run: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Inside, another process serves the page of a run that starts in this one; the run does not wait for it."""
    require_packages()
    # Not of a launcher's ranks, and not stopped by the Ctrl-C that ends the run.
    variables = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    command = [sys.executable, "-m", "groupwise", "watch", str(run), "--beside"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, start_new_session=True
    )
    assert child.stdin is not None
    telling = threading.Thread(target=_tell_lines, args=(child, tell), daemon=True)
    telling.start()
    try:
        yield
    finally:
        child.stdin.close()
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:  # a process that this one forked still holds its input
            child.kill()
            child.wait()
        telling.join()


def _tell_lines(child: subprocess.Popen[str], tell: Callable[[str], None]) -> None:
    assert child.stdout is not None
    with child.stdout as lines:
        for line in lines:
            tell(line.rstrip())


def _end_with_input(server: object) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True  # type: ignore[attr-defined]


def listen(host: str, port: int | None) -> socket.socket:
    """A socket at that port, or at the first free one."""
    for candidate in [port] if port else [*range(FIRST_PORT, FIRST_PORT + NUM_PORTS), 0]:
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, candidate))
            found.listen(64)
        except OSError as error:
            found.close()
            last = error
        else:
            return found
    raise ConfigError(
        f"Cannot listen at {host}, port {port or FIRST_PORT}: {last.strerror}. Choose another --port, or an address of "
        "this machine as --host."
    )


def _names(host: str) -> list[str]:
    """What else the Host header may be where the page is not for this machine alone."""
    if is_local(host):
        return []
    return ["*"] if host == ANYWHERE else [host, socket.gethostname()]


def is_local(host: str) -> bool:
    """Whether nobody but this machine can reach that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    return socket.gethostname() if host == ANYWHERE else host
