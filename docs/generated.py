"""Files in docs/ that a script makes from the code: written, or with `--check` only compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

Made = Mapping[str, Callable[[], str]]
"""Name of a file -> what makes its text."""


def stale(folder: Path, made: Made) -> list[str]:
    """Files that differ from what the code makes now."""
    return [name for name, make in made.items() if (folder / name).read_text(encoding="utf-8") != make()]


def run(description: str | None, folder: Path, made: Made) -> None:
    """The command line of such a script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare the files with the code")
    if parser.parse_args().check:
        if names := stale(folder, made):
            sys.exit(f"{', '.join(names)}: run python docs/{Path(sys.argv[0]).name}")
        return
    for name, make in made.items():
        (folder / name).write_text(make(), encoding="utf-8")
