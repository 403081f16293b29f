"""The choice of a sandbox backend: the user's setting, what works here, and the error where nothing does."""

from __future__ import annotations

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


_chosen = BackendChoice()
_used: dict[str, Backend] = {}


def use(choice: BackendChoice) -> None:
    """Let every worker that this program starts from now on follow the choice."""
    global _chosen
    _chosen = choice
    _used.clear()


def use_sandbox(settings: SandboxSettings) -> None:
    """Follow the choice of a configuration."""
    use(BackendChoice(settings.sandbox, settings.run_untrusted_code_without_sandbox))


def sandboxes_in_use() -> list[str]:
    """The backends that workers are started in, for the record; `none` is no sandbox."""
    return list(_used)


def sandbox_programs() -> dict[str, str]:
    """Backend in use -> its program or image on this machine."""
    return {name: backend.about for name, backend in _used.items()}


def sandbox_notes() -> list[str]:
    """The backends in use, as a sentence for the user."""
    words = {"none": "processes without a sandbox, with your own rights"}
    where = ", ".join(words.get(name, name) for name in _used)
    return [f"Rewards run code of the model's answers in {where}."] if where else []


def backend_for(*, untrusted: bool) -> Backend:
    """The backend of the next worker; `ConfigError` where untrusted code has no sandbox and the risk is not accepted.

    A function that only reads a completion runs in bubblewrap where that works, otherwise in a plain process.
    """
    backend = _backend(untrusted)
    _used[backend.name] = backend
    return backend


def chosen() -> BackendChoice:
    """The choice in force, for a worker process that starts workers itself."""
    return _chosen


def _backend(untrusted: bool) -> Backend:
    if _chosen.backend in ("bubblewrap", "docker"):
        found = find_bubblewrap() if _chosen.backend == "bubblewrap" else find_docker()
        if found.backend is None:
            raise ConfigError(f"sandbox is {_chosen.backend}, and it does not work here. {found.reason}")
        return found.backend
    looked_at = [] if _chosen.backend == "none" else _looked_at(untrusted)
    working = next((found.backend for found in looked_at if found.backend is not None), None)
    if working is None and untrusted and not _chosen.run_untrusted_code_without_sandbox:
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
