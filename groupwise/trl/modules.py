"""Modules of TRL that groupwise has none of: an error that says where their names are."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class OtherModules:
    """A finder behind all others: what is not below `groupwise.trl` is a module of TRL's."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Nothing is found here.

        Raises:
            ModuleNotFoundError: a module below `groupwise.trl`, with where its names are.
        """
        name = fullname.removeprefix("groupwise.trl.")
        if name == fullname:
            return None
        raise ModuleNotFoundError(
            f"There is no {fullname}: GRPOConfig, GRPOTrainer and the other names of a script are in groupwise.trl; "
            f"what only TRL has stays `from trl.{name} import ...`, where trl is installed.",
            name=fullname,
        )
