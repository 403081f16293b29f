"""`TrlParser`: dataclasses from a command line and a YAML file."""

from __future__ import annotations

import os
import sys
from argparse import Action
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from groupwise.config.yaml_file import read_mapping
from groupwise.errors import ConfigError, did_you_mean


class TrlParser(HfArgumentParser):  # type: ignore[misc]  # transformers is not followed by the type checker
    """transformers' parser, which reads `--config file.yaml` too: the command line wins over the file."""

    def parse_args_and_config(
        self,
        args: Iterable[str] | None = None,
        return_remaining_strings: bool = False,
        fail_with_unknown_args: bool = True,
        separate_remaining_strings: bool = False,
    ) -> tuple[Any, ...]:
        """One object for each dataclass. `env` in the file sets variables of the environment.

        A mistake on the program's command line (`args` is None) ends it as argparse does: one message, exit code 2.

        Raises:
            ConfigError: the file cannot be read, an option or key belongs to no dataclass, or values that contradict
                each other.
        """
        try:
            return self._parse(
                list(sys.argv[1:] if args is None else args),
                return_remaining_strings,
                fail_with_unknown_args,
                separate_remaining_strings,
            )
        except ConfigError as error:
            if args is not None:
                raise
            print(f"{self.prog}: error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    def _parse(self, words: list[str], returns_rest: bool, is_strict: bool, separates_rest: bool) -> tuple[Any, ...]:
        rest: list[str] = []
        if "--config" in words:
            place = words.index("--config")
            file, words = words[place + 1 : place + 2], words[:place] + words[place + 2 :]
            if not file:
                raise ConfigError("--config needs the name of a YAML file.")
            rest = self._take_file(Path(file[0]), is_strict and not returns_rest)
        *parsed, of_line = self.parse_args_into_dataclasses(args=words, return_remaining_strings=True)
        if returns_rest:
            return (*parsed, *([rest, of_line] if separates_rest else [rest + of_line]))
        if of_line:
            raise ConfigError(self._unknown(of_line))
        return tuple(parsed)

    def _unknown(self, words: list[str]) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not options:
            return f"{' '.join(words)}: a value without an option. Write --option value."
        return " ".join(f"unknown option {option}.{did_you_mean(option, known)}" for option in options)

    def set_defaults_with_config(self, **values: Any) -> list[str]:
        """Make the values the defaults of the command line; returns those that belong to no dataclass, as its words."""
        actions: list[Action] = self._actions
        for action in actions:
            if action.dest in values:
                action.default, action.required = values[action.dest], False
        known = {action.dest for action in actions}
        return [word for name, value in values.items() if name not in known for word in (f"--{name}", str(value))]

    def _take_file(self, path: Path, is_strict: bool) -> list[str]:
        values = read_mapping(path)
        environment = values.pop("env", None) or {}
        if not isinstance(environment, dict):
            raise ConfigError(f"{path}: env is {environment!r}; expected a mapping of variables to values.")
        os.environ.update({str(name): str(value) for name, value in environment.items()})
        rest = self.set_defaults_with_config(**values)
        if rest and is_strict:
            known = {action.dest for action in self._actions}
            unknown = [word[2:] for word in rest[::2]]
            hints = " ".join(f'unknown key "{name}".{did_you_mean(name, known)}' for name in unknown)
            raise ConfigError(f"{path}: {hints}")
        return rest
