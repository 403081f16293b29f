"""Build the peers' own virtual environments under bench/.venvs/, with this environment's torch and transformers.

    python bench/peers.py trl

Every shared package is held to the version that this environment has, so that a comparison never compares two torches
and pip never fetches another one: it fails instead.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VENVS = Path(__file__).resolve().parent / ".venvs"

PEERS = {"trl": ("trl==1.16.0", "torch", "transformers", "peft", "datasets")}
"""Peer -> what is installed."""

SHARED = ("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "numpy", "huggingface_hub")
"""Packages that must be the same on both sides."""


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return VENVS / peer / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def constraints() -> list[str]:
    """`package==version` for every shared package that is installed here."""
    lines = []
    for package in SHARED:
        try:
            lines.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue
    return lines


def build(peer: str) -> Path:
    """Create the environment, or bring it up to date; its interpreter."""
    folder = VENVS / peer
    if not python_of(peer).exists():
        venv.create(folder, with_pip=True)
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(constraints()) + "\n")
    command = [str(python_of(peer)), "-m", "pip", "install", "--quiet", "--constraint", str(pins), *PEERS[peer]]
    subprocess.run(command, check=True)
    return python_of(peer)


def require(peer: str) -> Path:
    """The interpreter of a peer that has been built; exits with the command that builds it otherwise."""
    if not python_of(peer).exists():
        sys.exit(f"The environment of {peer} is missing. Build it first: python bench/peers.py {peer}")
    return python_of(peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", default=list(PEERS), help=f"which to build: {', '.join(PEERS)} (all)")
    for peer in parser.parse_args().peers:
        if peer not in PEERS:
            sys.exit(f"There is no peer {peer!r}; there are: {', '.join(PEERS)}.")
        print(f"{peer}: {build(peer)}")


if __name__ == "__main__":
    main()
