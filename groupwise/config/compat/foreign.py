"""Keys of other libraries' configurations: each with what becomes of it here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["same", "translated", "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class Foreign:
    """One key of another library."""

    name: str
    kind: Kind
    default: Any
    """The other library's default: accepted without a note, and returned where the key was not written."""
    sentence: str
    """For a translated key what it becomes; for an ignored one why; for a refused one what to use instead."""
    met: tuple[Any, ...] = ()
    """Values of an ignored key that ask for what groupwise does anyway: accepted without a note."""
    is_for_program: bool = False
    """Whether only the user's program reads the key, here as there: never noted."""

    def asks_for_nothing(self, value: Any) -> bool:
        """Whether writing this value is the same as not writing the key."""
        is_empty = value is None or value is False or value in ("", [], {}, ())
        return is_empty or self.is_for_program or value == self.default or value in self.met


def same(name: str, sentence: str = "") -> Foreign:
    """The same name and the same meaning."""
    return Foreign(name, "same", None, sentence)


def translated(name: str, default: Any, sentence: str) -> Foreign:
    """Another name or another unit for something groupwise has."""
    return Foreign(name, "translated", default, sentence)


def ignored(name: str, default: Any, sentence: str, *, met: tuple[Any, ...] = ()) -> Foreign:
    """Without an effect here, and without harm; noted when the value is neither the default nor one of `met`."""
    return Foreign(name, "ignored", default, sentence, met)


def for_program(name: str, default: Any, sentence: str) -> Foreign:
    """What the user's program reads and passes on itself."""
    return Foreign(name, "ignored", default, sentence, is_for_program=True)


def all_ignored(sentence: str, **defaults: Any) -> tuple[Foreign, ...]:
    """Keys with their defaults that are ignored for one reason."""
    return tuple(ignored(name, default, sentence) for name, default in defaults.items())


def refused(name: str, default: Any, sentence: str) -> Foreign:
    """An error unless the value is the default."""
    return Foreign(name, "refused", default, sentence)
