# ruff: noqa: E501
"""Programs that try to read, write or reach what is not theirs: they print the right answer if they succeed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from groupwise.rewards.sandbox import backend
from groupwise.rewards.sandbox.backend import interpreter

pytestmark = pytest.mark.slow

PRINTS = [{"input": "3\n", "output": "6\n"}]

LOOKS = """
import os
def search(folder):
    for root, below, names in os.walk(folder):
        if root.count("/") > folder.count("/") + 2:
            below.clear()
        for name in names:
            try:
                with open(os.path.join(root, name), "rb") as file:
                    if b"WORD-47f1" in file.read(10**4):
                        print(6, flush=True)
                        os._exit(0)
            except OSError:
                pass
"""


def refused(arena, program, tests=PRINTS, limit_s=5.0):
    reward, why = arena.attack(program, tests, limit_s)
    assert reward == 0, why


def test_a_look_that_succeeds_is_seen(arena):
    """What the tests below take for success is a reward of 1."""
    own = "os.makedirs('/tmp/own'); open('/tmp/own/x', 'w').write('WORD' + '-47f1')\nsearch('/tmp/own')"
    assert arena.attack(LOOKS + own, PRINTS, 5.0)[0] == 1


@pytest.mark.parametrize("place", ["home", "working folder", "temporary folder", "beside the interpreter"])
def test_reading_the_users_files(arena, tmp_path, place):
    folders = {
        "home": Path.home(),
        "working folder": Path.cwd() / "runs",
        "temporary folder": tmp_path,
        "beside the interpreter": interpreter().parents[2],
    }
    folder = folders[place]
    folder.mkdir(exist_ok=True)
    if not os.access(folder, os.W_OK):
        pytest.skip(f"this user can keep nothing in {folder}")
    file = folder / ".secret-of-the-hostile-suite"
    try:
        file.write_text("WORD-47f1")
        refused(arena, f"{LOOKS}\nsearch({str(folder)!r})\nos.path.exists({str(file)!r}) and print(6)")
    finally:
        file.unlink()


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/resolv.conf", "/root", "/home", "/var/log", "/sys"]
)
def test_reading_the_systems_files(arena, file):
    """Of a folder above Python, Python alone is there."""
    on_the_way = {part for path in map(Path, [interpreter(), backend.INSIDE, *sys.path]) for part in path.parts}
    listed = f"set(os.listdir({file!r})) - {on_the_way!r} if os.path.isdir({file!r}) else os.path.exists({file!r})"
    refused(arena, f"import os\nprint(6 if {listed} else 7)")


def test_reading_the_environment(arena, monkeypatch):
    monkeypatch.setenv("HOSTILE_TOKEN", "WORD-47f1")
    program = """
import glob, os
found = "WORD-47f1" in str(os.environ)
for name in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline"):
    try: found |= b"WORD-47f1" in open(name, "rb").read()
    except OSError: pass
print(6 if found or set(os.environ) - {names} else 7)
""".replace("{names}", repr({*backend.ENVIRONMENT, "PWD", "LC_CTYPE"}))
    arena.code.programs.close()  # those that wait were started before the token was set
    arena.code.programs.start()
    refused(arena, program)


def test_seeing_other_processes(arena):
    """Its own, the sandbox's first, and nothing else."""
    refused(arena, "import os\nprint(6 if sum(n.isdigit() for n in os.listdir('/proc')) > 2 else 7)")


@pytest.mark.parametrize("where", ["/proc", "/tmp", "/dev/shm", "/proc/self/fd", "/usr/local"])
def test_finding_the_expected_output(arena, where):
    wanted = [{"input": "3\n", "output": "WORD-47f1 of this test\n"}]
    refused(arena, LOOKS.replace("print(6,", "print('WORD-47f1 of this test',") + f"search({where!r})", wanted)


SEARCHES_MEMORY = """
import gc, re, sys
def looks():
    kept, frame = [repr(o) for o in gc.get_objects() if isinstance(o, (str, bytes, dict, list, tuple))], sys._getframe()
    while frame:
        kept += [repr(frame.f_locals), repr(frame.f_globals)]
        frame = frame.f_back
    for line in open("/proc/self/maps"):
        span, rights, *_ = line.split()
        if "rw" in rights:
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                with open("/proc/self/mem", "rb", 0) as memory:
                    memory.seek(start)
                    kept.append(memory.read(end - start).decode("latin-1"))
            except (OSError, ValueError, OverflowError, MemoryError):
                continue
    return next((m[0] for k in kept if (m := re.search("TOKEN-[0-9]{6}", k))), None)
"""


def test_a_search_of_the_memory_finds_what_is_there(arena):
    program = SEARCHES_MEMORY + "kept = 'TOKEN' + '-' + '1' * int(input())\nprint(looks())"
    assert arena.attack(program, [{"input": "6", "output": "TOKEN-111111"}], 5.0)[0] == 1


def test_finding_the_expected_output_in_memory(arena):
    refused(arena, SEARCHES_MEMORY + "print(looks())", [{"input": "3", "output": "TOKEN-482913"}])


def test_finding_the_expected_value_of_an_assertion(arena):
    """What a test compares with stays in the other sandbox, nor is it on the pipe."""
    refused(arena, SEARCHES_MEMORY + "def double(x): return looks()", ["assert double(3) == 'TOKEN-482913'"])


@pytest.mark.parametrize("kind", ["tcp", "unix", "abstract", "udp"])
def test_reaching_a_server_on_this_machine(arena, tmp_path, kind):
    family = socket.AF_INET if kind in ("tcp", "udp") else socket.AF_UNIX
    address = {
        "tcp": ("127.0.0.1", 0),
        "udp": ("127.0.0.1", 0),
        "unix": str(tmp_path / "s"),
        "abstract": f"\0{tmp_path}",
    }[kind]
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as server:
        server.bind(address)
        if kind != "udp":
            server.listen()
        where = server.getsockname()
        where = where.decode() if isinstance(where, bytes) else where
        server.settimeout(0.05)
        program = f"""
import socket
s = socket.socket({int(family)}, {int(server.type)})
s.settimeout(0.2)
s.connect({where!r})
s.send(b"WORD-47f1")
print({"7" if kind == "udp" else "6"})
"""
        refused(arena, program)
        with pytest.raises(TimeoutError):
            server.recv(1) if kind == "udp" else server.accept()


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('1.1.1.1', 53), 0.2)",
        "socket.create_connection(('2606:4700:4700::1111', 53), 0.2)",
        "socket.getaddrinfo('example.com', 80)",
        "socket.socket(40, 1)",  # AF_VSOCK: no namespace holds it, and it reaches the machine below a virtual one
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "socket.socket(38, 5)",  # AF_ALG
    ],
)
def test_reaching_the_network(arena, call):
    refused(arena, f"import socket\n{call}\nprint(6)")


LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef ok(r): print(6 if r != -1 else 7)\n"


@pytest.mark.parametrize(
    "call",
    [
        "ok(libc.ptrace(16, os.getppid(), 0, 0))",
        "ok(libc.ptrace(16, 1, 0, 0))",
        "ok(libc.ptrace(0, 0, 0, 0))",
        "ok(libc.unshare(0x10000000))",
        "ok(libc.unshare(0x00020000))",
        "ok(libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))",
        "ok(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
        "ok(libc.umount2(b'/tmp', 2))",
        "ok(libc.chroot(b'/tmp'))",
        "ok(libc.setuid(0))",
        "ok(libc.setgid(0))",
        "ok(libc.syscall(321, 0, 0, 0))",
        "ok(libc.syscall(425, 8, ctypes.create_string_buffer(200)))",
        "ok(libc.syscall(250, 0, -3, 1))",
        "ok(libc.personality(0x40000000 | 0x0400000) if libc.syscall(310, 1, 0, 0, 0, 0, 0) != -1 else -1)",
        "ok(libc.sethostname(b'x', 1))",
        "ok(libc.settimeofday(ctypes.create_string_buffer(16), None))",
        "ok(libc.mknod(b'/tmp/memory', 0o20666, os.makedev(1, 1)))",
        "ok(libc.setpriority(0, 0, -20))",
        "os.setgroups([0]); print(6)",
        "os.open('/proc/1/mem', os.O_RDWR); print(6)",
        "os.open(f'/proc/{os.getppid()}/mem', os.O_RDONLY); print(6)",
        "os.listdir('/proc/1/root'); print(6)",
        "os.listdir('/proc/1/fd'); print(6)",
        "os.open('/proc/1/fd/1', os.O_WRONLY); print(6)",
        "os.open('/proc/1/environ', os.O_RDONLY); print(6)",
        "open('/proc/1/x', 'w'); print(6)",
        "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY); print(6)",
        "os.open('/proc/sysrq-trigger', os.O_WRONLY); print(6)",
        "os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000'); print(6)",
        "os.open('/dev/mem', os.O_RDONLY); print(6)",
        "os.open('/dev/kmsg', os.O_WRONLY); print(6)",
    ],
)
def test_gaining_rights(arena, call):
    refused(arena, LIBC + call)


@pytest.mark.parametrize("program", ["su", "sudo", "mount", "newgrp", "passwd", "bwrap"])
def test_programs_that_run_as_root(arena, program):
    attack = f"import subprocess\nr = subprocess.run(['{program}', '--help'], capture_output=True)\n"
    refused(arena, f"{attack}r = subprocess.run(['{program}', '-c', 'id'], capture_output=True, text=True)\n"
            "print(6 if 'uid=0' in r.stdout else 7)")  # fmt: skip


PLACES = [
    "/",
    "/usr",
    "/etc",
    "/proc",
    "/dev",
    "/bin/x",
    "{home}",
    "{python}",
    "{packages}",
    "{inside}",
    "{inside}/main.py",
]


@pytest.mark.parametrize("place", PLACES)
def test_writing_elsewhere(arena, place):
    import sysconfig

    named = {"{home}": str(Path.home()), "{python}": str(interpreter().parents[1] / "lib"),
             "{packages}": sysconfig.get_path("purelib"), "{inside}": str(backend.INSIDE)}  # fmt: skip
    for name, path in named.items():
        place = place.replace(name, path)
    mark = arena.new_mark()
    attack = f"import os\np = {place!r}\np = p if os.path.isfile(p) else p + '/{mark}.pth'\n"
    refused(arena, f"{attack}f = open(p, 'a')\nf.write('x')\nf.close()\nprint(6)")
    assert not Path(f"{place}/{mark}.pth").exists()


@pytest.mark.parametrize("kind", ["symlink", "link"])
def test_links_lead_nowhere(arena, tmp_path, kind):
    """A link to a file outside, followed inside, finds the sandbox's own /tmp; and nothing of it is ever read here."""
    outside = tmp_path / "file"
    outside.write_text("WORD-47f1")
    program = f"""
import os
try: os.{kind}({str(outside)!r}, "/tmp/x")
except OSError: pass
os.symlink("/proc/1/root/tmp", "/tmp/y")
try: found = open("/tmp/x").read()
except OSError: found = ""
try: open("/tmp/x", "w").write("gone")
except OSError: pass
print(6 if found else 7)
"""
    refused(arena, program)
    assert outside.read_text() == "WORD-47f1"


def test_leaving_a_file_for_the_next_program(arena):
    write = "import os\nfor p in ('/tmp', '/dev/shm', '/var/tmp', '/run', '.'):\n    try: open(p + '/left', 'w').write('6')\n    except OSError: pass\nprint(7)"
    refused(arena, write)
    refused(arena, "print(open('/tmp/left').read())")
    refused(arena, "print(open('/dev/shm/left').read())")


def test_a_right_program_still_gets_its_reward(arena):
    arena.still_works()


def test_signals_to_the_program_outside(arena):
    """Numbers of processes outside mean nothing inside."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    refused(arena, f"import os\nfor n in ({process.pid}, {os.getpid()}):\n    os.kill(n, 9)\nprint(6)")
    assert process.poll() is None
    process.communicate(b"\n")


def test_many_at_once_do_not_reach_each_other(arena):
    """Two programs at the same time, one of which looks for the other."""
    code = arena.code
    texts = [
        "import time\nopen('/tmp/WORD-47f1', 'w').write('WORD-47f1')\ntime.sleep(0.3)\nprint(6)",
        LOOKS + "search('/tmp')\nsearch('/proc')",
    ]
    rewards: list[float | None] = []
    code.programs.timeout_s = 5.0

    def run(text):
        rewards.append(code([f"```python\n{text}\n```"], tests=[PRINTS])[0])

    threads = [threading.Thread(target=run, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rewards) == [0, 1]
