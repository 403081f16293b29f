"""The manifest of a checkpoint: its files with their checksums, written last, so that a folder with one is whole."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from groupwise.errors import RunError
from groupwise.runs import disk

MANIFEST = "manifest.json"
FORMAT = 5
"""Of checkpoints. It grows when an older version of groupwise could not resume from a new one, or the reverse."""
READABLE = (3, 4, FORMAT)
"""Formats that this version resumes from. Up to 4 the state stands at the top (`checkpoint/store.py`), up to 3 the
parts of the state are not together (`checkpoint/parts.py`)."""

_AT_A_TIME = 4
"""Files that are forced to the disk side by side."""


def write(folder: Path) -> None:
    """List every file of a folder and force all of them to the disk, several at a time: a disk waits, a core hashes."""
    found = _files(folder)
    names = sorted(found)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        files = dict(zip(names, pool.map(_written, [found[name] for name in names]), strict=True))
    text = json.dumps({"format": FORMAT, "files": files}, indent=1)
    disk.replace(folder / MANIFEST, text.encode())
    disk.sync(folder / MANIFEST)
    for path in {folder, *(file.parent for file in found.values())}:
        disk.sync(path)


def check(folder: Path) -> None:
    """Compare a checkpoint with its manifest.

    Raises:
        RunError: it is none, or of another format, or a byte of it is not what was written.
    """
    require(folder)
    listed = _listed(folder)
    found = _files(folder).keys() - {MANIFEST}
    for name in sorted({name for name in found if _decides(name)} - listed.keys() | (listed.keys() - found)):
        raise RunError(
            f'The checkpoint "{folder}" is damaged: {name} is {"not listed" if name in found else "missing"}.'
        )
    for name, (size, digest) in listed.items():
        file = folder / name
        if file.stat().st_size != size:
            raise RunError(
                f'The checkpoint "{folder}" is damaged: {name} has {file.stat().st_size:,} bytes instead of {size:,}.'
            )
        if _sha256(file) != digest:
            raise RunError(f'The checkpoint "{folder}" is damaged: the contents of {name} have changed.')


def _written(file: Path) -> dict[str, Any]:
    """The entry of a file, once it is on the disk."""
    disk.sync(file)
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def require(folder: Path) -> None:
    """Raise `RunError` for a folder that is no checkpoint, or not there; reads no file of it."""
    if not (folder / MANIFEST).is_file():
        what = f"has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
        raise RunError(f'"{folder}" is not a checkpoint: {what}. Give a folder checkpoint-N of a groupwise run.')


def _files(folder: Path) -> dict[str, Path]:
    """Name below the folder, with slashes -> file."""
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def _decides(name: str) -> bool:
    """Whether how a run goes on depends on a file of this name; others may be put beside them (a card, a log)."""
    return "/" in name or name.endswith((".safetensors", "state.json"))


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    """File -> size and checksum."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        number = manifest["format"]
        listed = {str(name): (int(e["bytes"]), str(e["sha256"])) for name, e in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f'The checkpoint "{folder}" is damaged: {MANIFEST} cannot be read.') from None
    if number not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise RunError(f'"{folder}" has checkpoint format {number}; this version of groupwise reads {known}.')
    return listed


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
