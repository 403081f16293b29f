"""Prints a constraints file that pins every dependency of pyproject.toml to the lowest version that it allows.

python .ci/oldest.py [NAME==VERSION ...]    a pin that is given replaces the lower bound of its package
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lowest(requirements: list[str]) -> dict[str, str]:
    """Name -> lowest allowed version, from `name>=version` and `name==version`; extras and markers are left out."""
    found = (re.match(r"([\w-]+)(?:\[[\w,]+\])?[>=]=([\w.]+)", line) for line in requirements)
    return {match[1]: match[2] for match in found if match is not None}


def main() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    pins = lowest(tomllib.loads(text)["project"]["dependencies"]) | lowest(sys.argv[1:])
    print(*(f"{name}=={version}" for name, version in pins.items()), sep="\n")


if __name__ == "__main__":
    main()
