# ruff: noqa: E501
"""Programs that try to hurt the machine: each scores 0, is over in time, and leaves nothing behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from tests.rewards.hostile.conftest import LIMIT_S, MEMORY_MB

pytestmark = pytest.mark.slow

DOUBLES = ["assert double(3) == 6", "assert double(10) == 20"]
PRINTS = [{"input": "3\n", "output": "6\n"}]

USES_UP = {
    "fork bomb": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "fork bomb that sleeps": "import os, time\nwhile True:\n    try:\n        if os.fork() == 0: time.sleep(99)\n    except OSError:\n        pass",
    "thread bomb": "import threading, time\nwhile True:\n    try:\n        threading.Thread(target=time.sleep, args=(99,)).start()\n    except RuntimeError:\n        pass",
    "memory": "kept = []\nwhile True:\n    kept.append(bytearray(10**7))",
    "one huge block": "kept = bytearray(10**11)",
    "memory of many processes": "import os, time\nfor _ in range(3): os.fork()\nkept = bytearray(b'x' * 10**8)\ntime.sleep(99)",
    "shared memory": "import mmap\nkept = []\nwhile True:\n    m = mmap.mmap(-1, 10**7); m.write(b'x' * 10**7); kept.append(m)",
    "System V memory": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\nfor _ in range(60):\n    n = libc.shmget(0, 10**8, 0o1600); ctypes.memset(libc.shmat(n, None, 0), 1, 10**8)",
    "memfd": "import os\nfor _ in range(50):\n    fd = os.memfd_create('x')\n    for _ in range(60): os.write(fd, b'x' * 10**6)\nprint(6)",
    "one large file": "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * 10**6)",
    "many large files": "for k in range(999):\n    open(f'/tmp/{k}', 'wb').write(b'x' * 10**7)\nprint(6)",
    "many empty files": "k = 0\nwhile True:\n    open(f'/tmp/{k}', 'w').close(); k += 1",
    "/dev/shm": "for k in range(999):\n    open(f'/dev/shm/{k}', 'wb').write(b'x' * 10**7)\nprint(6)",
    "/dev": "open('/dev/x', 'wb').write(b'x' * 10**9)\nprint(6)",
    "endless output": "while True: print('6' * 10**4)",
    "endless errors": "import sys\nwhile True: sys.stderr.write('6' * 10**4)",
    "endless loop": "while True: pass",
    "sleep": "import time\ntime.sleep(99)",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "ignores every signal": "import signal\nfor s in signal.valid_signals():\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "huge recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x + 1)\nf(0)",
    "huge number": "print(9 ** 9 ** 9)",
    "regular expression": "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
    "zip of zeros": "import zlib\nd = zlib.compressobj(9)\nz = b''.join(d.compress(bytes(10**6)) for _ in range(200)) + d.flush()\nkept = [zlib.decompress(z) for _ in range(99)]",
    "closes everything": "import os\nos.closerange(0, 999)\nwhile True: pass",
    "crash": "import ctypes\nctypes.string_at(0)",
    "core": "import os\nos.abort()",
    "raises its limits": "import resource\nfor n in ('AS', 'NPROC', 'FSIZE', 'CPU', 'NOFILE'):\n    try:\n        resource.setrlimit(getattr(resource, 'RLIMIT_' + n), (-1, -1)); print(6)\n    except (ValueError, OSError): pass",
    "many descriptors": "import os\nkept = [os.dup(0) for _ in range(9999)]\nprint(6)",
}  # fmt: skip


CAUGHT = {
    "memory": "out of memory",
    "one huge block": "out of memory",
    "memory of many processes": "out of memory",
    "shared memory": "memory",
    "huge recursion": "out of memory|SystemError|MemoryError",  # whichever Python meets first
    "memfd": "not permitted",
    "one large file": "No space left|File too large",
    "many large files": "No space left",
    "many empty files": "more than 10000 files",
    "/dev/shm": "No space left",
    "/dev": "Read-only",
    "endless output": "1048576 bytes of output",
    "many descriptors": "Too many open files",
}
"""Those that a limit of their own ends before the time is over."""


@pytest.mark.parametrize("name", USES_UP)
def test_using_everything_up(arena, name):
    free = shutil.disk_usage(tempfile.gettempdir()).free
    start = time.process_time()
    limit_s = 30.0 if name in CAUGHT else LIMIT_S  # time enough on a busy machine
    reward, why = arena.attack(USES_UP[name], PRINTS, limit_s)
    assert reward == 0, why
    assert re.search(CAUGHT.get(name, ""), why)
    assert time.process_time() - start < 2.5
    assert shutil.disk_usage(tempfile.gettempdir()).free > free - (MEMORY_MB << 20)
    arena.still_works()


IN_A_CALL = {
    "hangs": "    while True: pass",
    "huge value": "    return 'x' * 10**8",
    "deep value": "    v = []\n    for _ in range(10**5): v = [v]\n    return v",
    "value in a circle": "    v = []\n    v.append(v)\n    return v",
    "endless iterator": "    import itertools\n    return itertools.count()",
    "huge number": "    return 1 << 10**7",
    "huge message": "    raise ValueError('x' * 10**8)",
    "fork bomb": "    import os\n    while True: os.fork()",
    "both processes answer": "    import os\n    os.fork()\n    return 7",
    "never ready": "    import os, signal\n    os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("name", IN_A_CALL)
def test_using_everything_up_in_a_call(arena, name):
    reward, why = arena.attack(f"def double(x):\n{IN_A_CALL[name]}", DOUBLES)
    assert reward == 0, why
    arena.still_works()


KILLS = {
    "parent": "os.kill(os.getppid(), 9)",
    "first process": "os.kill(1, 9)",
    "every process": "os.kill(-1, 9)",
    "its group": "os.killpg(0, 9)",
    "all numbers": "[os.kill(n, 9) for n in range(2, 99999) if n != os.getpid() and os.path.exists(f'/proc/{n}')]",
    "first process, politely": "[os.kill(1, s) for s in (1, 2, 3, 15, 19, 20)]",
}


@pytest.mark.parametrize("name", KILLS)
def test_killing(arena, name):
    reward, why = arena.attack(f"import os\nwhile True:\n    {KILLS[name]}", PRINTS)
    assert reward == 0, why
    arena.still_works()


@pytest.mark.parametrize("in_background", ["os.fork() == 0", "os.fork() == 0 and not os.setsid() and os.fork() == 0"])
def test_living_on(arena, in_background):
    """A process that has left its group, its session and its parent ends with the sandbox."""
    mark = arena.new_mark()
    title = f"open('/proc/self/comm', 'w').write('{mark}')"
    program = f"import os, time\nif {in_background}:\n    {title}\n    time.sleep(99)\nprint(7)"
    reward, _ = arena.attack(program, PRINTS)
    assert reward == 0
    assert not arena.named(mark)


def test_the_marks_of_processes_are_seen(arena):
    """The look for what is left behind finds what is there."""
    mark = arena.new_mark()
    command = [sys.executable, "-c", "print(1, flush=True); input()", mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before it has begun, its command is still being written
        assert arena.named(mark) == [process.pid]
        process.communicate(b"\n")
    assert not arena.named(mark)
