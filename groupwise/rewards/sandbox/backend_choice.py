"""The choice of a sandbox backend: the user's setting, what works here, and the error where nothing does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

from groupwise.errors import ConfigError
from groupwise.rewards.sandbox.backend import Backend
from groupwise.rewards.sandbox.detect import Found, find_bubblewrap, find_docker
from groupwise.rewards.sandbox.unconfined import Unconfined

BackendName = Literal["auto", "bubblewrap", "docker", "none"]

RISK = "run_untrusted_code_without_sandbox"


@dataclass(frozen=True)
class BackendChoice:
    """The settings of a recipe about the sandbox."""

    backend: BackendName = "auto"
    """auto takes bubblewrap where it works, then Docker."""
    run_untrusted_code_without_sandbox: bool = False
    """Whether code that a model wrote may run with the user's own rights."""


class SandboxSettings(Protocol):
    """A configuration, as far as the sandbox is concerned."""

    @property
    def sandbox(self) -> BackendName: ...

    @property
    def run_untrusted_code_without_sandbox(self) -> bool: ...


class RunSandboxes:
    """The sandboxes of one run: the choice of its configuration, and the backends that its workers are started in."""

    def __init__(self, choice: BackendChoice | None = None) -> None:
        self.choice = choice or BackendChoice()
        self.used: dict[str, Backend] = {}

    @classmethod
    def of(cls, settings: SandboxSettings) -> RunSandboxes:
        return cls(BackendChoice(settings.sandbox, settings.run_untrusted_code_without_sandbox))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Inside, workers follow this choice: in this thread or task, and in every `pool_of` threads."""
        token = _in_force.set(self)
        try:
            yield
        finally:
            _in_force.reset(token)


_in_force: ContextVar[RunSandboxes] = ContextVar("groupwise_sandboxes", default=RunSandboxes())  # noqa: B039  # of no run


def use(choice: BackendChoice) -> None:
    """Follow the choice from now on, in this thread or task."""
    _in_force.set(RunSandboxes(choice))


def pool_of(num_threads: int) -> ThreadPoolExecutor:
    """A pool of threads that follow the choice in force here."""
    return ThreadPoolExecutor(num_threads, initializer=_in_force.set, initargs=(_in_force.get(),))


def sandboxes_in_use() -> list[str]:
    """The backends that workers are started in, for the record; `none` is no sandbox."""
    return list(_in_force.get().used)


def sandbox_programs() -> dict[str, str]:
    """Backend in use -> its program or image on this machine."""
    return {name: backend.about for name, backend in _in_force.get().used.items()}


def sandbox_notes() -> list[str]:
    """The backends in use, as a sentence for the user."""
    words = {"none": "processes without a sandbox, with your own rights"}
    where = ", ".join(words.get(name, name) for name in _in_force.get().used)
    return [f"Code that the model writes runs in {where}."] if where else []


def backend_for(*, untrusted: bool) -> Backend:
    """The backend of the next worker; `ConfigError` where untrusted code has no sandbox and the risk is not accepted.

    A function that only reads a completion runs in bubblewrap where that works, otherwise in a plain process.
    """
    backend = _backend(untrusted)
    _in_force.get().used[backend.name] = backend
    return backend


def chosen() -> BackendChoice:
    """The choice in force, for a worker process that starts workers itself."""
    return _in_force.get().choice


def _backend(untrusted: bool) -> Backend:
    choice = chosen()
    if choice.backend in ("bubblewrap", "docker"):
        found = find_bubblewrap() if choice.backend == "bubblewrap" else find_docker()
        if found.backend is None:
            raise ConfigError(f"sandbox is {choice.backend}, and it does not work here. {found.reason}")
        return found.backend
    looked_at = [] if choice.backend == "none" else _looked_at(untrusted)
    working = next((found.backend for found in looked_at if found.backend is not None), None)
    if working is None and untrusted and not choice.run_untrusted_code_without_sandbox:
        raise ConfigError(_refusal(looked_at))
    return working or Unconfined()


def _looked_at(untrusted: bool) -> list[Found]:
    bubblewrap = find_bubblewrap()
    return [bubblewrap] if bubblewrap.backend is not None or not untrusted else [bubblewrap, find_docker()]


def _refusal(looked_at: list[Found]) -> str:
    why = " ".join(found.reason for found in looked_at) or "sandbox: none leaves it out."
    return (
        f"It runs or evaluates what a model wrote, and there is no sandbox for that here. {why} "
        f"Where there can be none, {RISK}: true does it with your own rights: what the model writes can read and "
        "delete your files and use your network. Do that only on a machine that you can lose."
    )
