"""Whether this machine lets an ordinary user make namespaces; many containers and some systems do not."""

from __future__ import annotations

import os
import shutil
import subprocess


def can_make_namespaces(uid: int) -> bool:
    """Whether root is here to become this user, and the user may have a namespace of its own."""
    program = shutil.which("unshare")
    if os.geteuid() != 0 or program is None:
        return False
    command = [os.path.realpath(program), "--user", "--map-root-user", "--mount", "/bin/true"]
    try:
        done = subprocess.run(command, user=uid, group=uid, extra_groups=[], capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
