# ruff: noqa: E501
"""Functions called in worker processes: their values, their errors, their limits."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from api_helpers import trainer

import groupwise
from groupwise.errors import ConfigError
from groupwise.rewards.sandbox import Sandboxed, detect, usage
from groupwise.rewards.sandbox import backend_choice as choice
from groupwise.rewards.sandbox import worker_process as process
from groupwise.rewards.sandbox.backend import FILE_NUMBER
from groupwise.rewards.sandbox.backend_choice import BackendChoice, backend_for, sandbox_notes, sandboxes_in_use, use
from groupwise.rewards.sandbox.bubblewrap import Bubblewrap
from groupwise.rewards.sandbox.detect import Found, find_bubblewrap
from groupwise.rewards.sandbox.docker import Docker
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.packaged_bwrap import PACKAGE, packaged_bwrap
from groupwise.rewards.sandbox.seccomp import filter_program
from groupwise.runs.reader import RunReader

from .namespaces import can_make_namespaces

SCORERS = "tests.rewards.scorers"
ROOT = Path(__file__).parents[2]

needs_bubblewrap = pytest.mark.skipif(
    find_bubblewrap().backend is None, reason=f"NO SANDBOX HERE: {find_bubblewrap().reason}"
)


@pytest.fixture(autouse=True)
def chosen():
    """Where bubblewrap does not work, the tests of workers as such run in plain processes."""
    is_here = find_bubblewrap().backend is not None
    use(BackendChoice("bubblewrap") if is_here else BackendChoice("none", run_untrusted_code_without_sandbox=True))
    yield
    use(BackendChoice())


def test_the_inside_imports_nothing_of_the_package():
    """Its folder is loaded by its path, where no groupwise can be imported."""
    for file in (ROOT / "groupwise/rewards/sandbox/inside").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names, file.name


def test_rows_come_back_in_order_as_the_function_returns_them():
    scorer = Sandboxed(f"{SCORERS}:double", num_workers=2)
    outcomes = scorer([{"x": number} for number in range(20)])
    assert [o.value for o in outcomes] == [2 * number for number in range(20)]
    assert all(o.error is None and o.seconds > 0 for o in outcomes)
    scorer.close()


def test_a_hung_row_costs_its_time_and_no_other_row():
    scorer = Sandboxed(f"{SCORERS}:hang_on_3", timeout_s=0.3, num_workers=1)
    outcomes = scorer([{"x": number} for number in range(5)])
    assert [o.value for o in outcomes] == [0, 1, 2, None, 4]
    assert outcomes[3].error == "timed out after 0.3 s"
    scorer.close()


def test_what_a_row_does_wrong_stands_in_its_outcome():
    scorer = Sandboxed(f"{SCORERS}:misbehave", num_workers=1)
    said = scorer([{"how": how} for how in ("raise", "exit", "die", "object", "nothing")])
    assert [o.error for o in said[:2]] == ["raised ValueError: no good", "called exit"]
    assert said[2].error == "ended with status 3"
    assert "returned what is not JSON" in str(said[3].error)
    assert (said[4].value, said[4].error) == (None, None)
    scorer.close()


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no_such_function"):
        Sandboxed(f"{SCORERS}:no_such_function")([{"x": 1}])
    with pytest.raises(ConfigError, match="no module no_such_package"):
        Sandboxed("no_such_package:function")([{"x": 1}])


@needs_bubblewrap
def test_a_scorer_sees_nothing_of_the_user(monkeypatch):
    monkeypatch.setenv("T0KEN", "1")
    scorer = Sandboxed(f"{SCORERS}:look", num_workers=1)
    assert scorer([{}])[0].value == {"home": False, "network": False, "secret": False}
    scorer.close()


@needs_bubblewrap
def test_a_worker_that_a_row_left_something_in_is_replaced():
    scorer = Sandboxed(f"{SCORERS}:leave_a_process", num_workers=1)
    first, second = scorer([{"x": 1}]), scorer([{"x": 2}])
    assert (first[0].value[0], second[0].value[0]) == (1, 2)
    assert not scorer.idle
    scorer.close()


@needs_bubblewrap
def test_a_row_that_fills_the_memory_is_ended():
    scorer = Sandboxed(f"{SCORERS}:fill_memory", num_workers=1)
    scorer.limits = Limits(memory_mb=200, open_files=256)
    assert scorer([{"x": 1}])[0].error == "killed: out of memory"
    scorer.close()


def test_what_a_scorer_prints_is_no_answer():
    scorer = Sandboxed(f"{SCORERS}:speak", num_workers=1)
    assert [o.value for o in scorer([{"x": 1}, {"x": 2}])] == [1, 2]
    scorer.close()


def test_a_worker_serves_many_rows_and_load_starts_it():
    scorer = Sandboxed(f"{SCORERS}:double", num_workers=1)
    scorer.load()
    (worker,) = scorer.idle
    scorer([{"x": 1}, {"x": 2}])
    assert scorer.idle == [worker]
    scorer.close()
    assert worker.popen.poll() is not None


def works(backend):
    return lambda: Found(backend)


def fails(reason):
    return lambda: Found(None, reason)


def test_auto_takes_bubblewrap_then_docker(monkeypatch):
    use(BackendChoice())
    monkeypatch.setattr(choice, "find_bubblewrap", works(Bubblewrap()))
    monkeypatch.setattr(choice, "find_docker", works(Docker()))
    assert backend_for(untrusted=True).name == "bubblewrap"
    monkeypatch.setattr(choice, "find_bubblewrap", fails("No bubblewrap. Install it."))
    assert backend_for(untrusted=True).name == "docker"
    assert backend_for(untrusted=False).name == "none", "what only reads does not wait for containers"
    assert sandboxes_in_use() == ["bubblewrap", "docker", "none"]
    assert "bubblewrap, docker, processes without a sandbox" in sandbox_notes()[0]


def test_without_a_sandbox_untrusted_code_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(choice, "find_bubblewrap", fails("bubblewrap is not installed. Install it: ..."))
    monkeypatch.setattr(choice, "find_docker", fails("Docker is not installed."))
    for name in ("auto", "none"):
        use(BackendChoice(name))
        with pytest.raises(ConfigError, match=r"run_untrusted_code_without_sandbox: true") as refusal:
            Sandboxed(f"{SCORERS}:double")([{"x": 1}])
        assert ("Install it" in str(refusal.value)) == (name == "auto")
        use(BackendChoice(name, run_untrusted_code_without_sandbox=True))
        assert backend_for(untrusted=True).name == "none"
    for name in ("bubblewrap", "docker"):
        use(BackendChoice(name, run_untrusted_code_without_sandbox=True))
        with pytest.raises(ConfigError, match=f"sandbox is {name}, and it does not work here"):
            backend_for(untrusted=True)


@needs_bubblewrap
def test_each_of_two_trainers_has_its_own_sandboxes(tmp_path):
    """They share a reward and its workers; the second one is made, and refused, before the first one trains."""
    scorer = Sandboxed(f"{SCORERS}:double", num_workers=2)

    def doubled(completions, **columns):
        return [outcome.value for outcome in scorer([{"x": len(each)} for each in completions])]

    risky = {"sandbox": "none", "run_untrusted_code_without_sandbox": True}
    first = trainer(tmp_path / "none", rewards=doubled, max_steps=1, **risky)
    second = trainer(tmp_path / "bubblewrap", rewards=doubled, max_steps=1, sandbox="bubblewrap")
    with pytest.raises(ConfigError, match="there is no sandbox for that here"):
        trainer(tmp_path / "refused", rewards=doubled, sandbox="none")
    for run in (first, second):
        run.train()
    for name in ("none", "bubblewrap"):
        assert RunReader(tmp_path / name).config["sandbox"] == [name]
    assert {worker.backend.name for worker in scorer.idle} == {"none", "bubblewrap"}
    assert sandboxes_in_use() == [], "nothing of theirs is left for others"
    scorer.close()


def test_a_scorer_that_only_reads_needs_no_sandbox():
    use(BackendChoice("none"))
    scorer = Sandboxed(f"{SCORERS}:double", num_workers=1, needs_sandbox=False)
    assert scorer([{"x": 4}])[0].value == 8
    scorer.close()


def test_what_bubblewrap_is_told():
    launch = Bubblewrap(is_root=True).launch(Limits(disk_mb=7), [ROOT / "groupwise"])
    told = " ".join(launch.arguments)
    for words in ("--unshare-net", "--unshare-pid", "--die-with-parent", "--new-session", "--cap-drop ALL",
                  f"--size {7 << 20} --tmpfs /tmp", "--remount-ro /", f"--ro-bind {ROOT / 'groupwise'}"):  # fmt: skip
        assert words in told
    assert "--bind " not in told, "nothing can be written to"
    uid = launch.arguments[launch.arguments.index("--reuid") + 1]
    assert 61184 <= int(uid) < 65520
    assert "--unshare-user" in Bubblewrap(is_root=False).launch(Limits(), []).arguments
    if filter_program() is not None:
        assert FILE_NUMBER in launch.arguments


def test_what_docker_is_told(tmp_path):
    launch = Docker(image="python:3.11-slim").launch(Limits(memory_mb=300, processes=5), [tmp_path])
    told = " ".join(launch.arguments)
    for words in ("run --rm --interactive", "--network none", "--read-only", "--user 65534:65534", "--cap-drop ALL",
                  "no-new-privileges", "--memory 300m --memory-swap 300m", "--pids-limit 7", "--pull never",
                  f"--volume {tmp_path}:{tmp_path}:ro", "nr_inodes=10000", "python:3.11-slim python3 -I"):  # fmt: skip
        assert words in told
    name = launch.arguments[launch.arguments.index("--name") + 1]
    assert launch.stop is not None
    assert list(launch.stop)[1:] == ["kill", name]


def test_docker_without_a_daemon_says_what_it_needs(monkeypatch, tmp_path):
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon.' >&2\nexit 125\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = detect.find_docker.__wrapped__()
    assert found.backend is None
    assert "Cannot connect to the Docker daemon" in found.reason
    assert "docker pull python:3" in found.reason


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("bwrap: No permissions to create new namespace, likely because ...", "namespace"),
        ("bwrap: setting up uid map: Permission denied", "namespace"),
        ("bwrap: Unknown option --size", "0.7"),
    ],
)
def test_a_bubblewrap_that_does_not_work_says_what_to_do(monkeypatch, tmp_path, said, advice):
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(detect, "packaged_bwrap", lambda: None)
    found = detect.find_bubblewrap.__wrapped__()
    assert found.backend is None
    assert said in found.reason
    assert advice in found.reason.replace(said, "")


def test_a_user_without_a_home_has_a_sandbox_all_the_same(monkeypatch):
    """A container may be started with a number as its user: there is no home to hide."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert set(detect._must_be_hidden()) == {os.getcwd()}


def test_a_sandbox_that_hides_nothing_is_none():
    """Detection starts a worker and looks from inside, so a backend that lets everything through is found out."""
    from groupwise.rewards.sandbox.unconfined import Unconfined

    found = detect._tried(Unconfined())
    assert found.backend is None
    assert "does not shut a worker in" in found.reason


def test_the_filter_lets_programs_run_and_knows_its_machine():
    program = filter_program()
    if program is None:
        pytest.skip("no table of system calls for this machine")
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096, "the kernel takes no longer one"


@needs_bubblewrap
@pytest.mark.slow
@pytest.mark.skipif(not can_make_namespaces(61000), reason="no ordinary user may be become, or make namespaces")
def test_as_an_ordinary_user():
    python = Path("/usr/bin/python3")
    if (
        not python.exists()
        or subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode
    ):
        pytest.skip("no Python here that every user may run")
    program = """
        from groupwise.rewards.shipped.code import Code
        from groupwise.rewards.sandbox.detect import find_bubblewrap
        print(find_bubblewrap())
        code = Code(limit_s=5)
        answers = {
            "right": "print(6)",
            "bomb": "import os, time\\nn = 0\\ntry:\\n  while n < 99:\\n    if os.fork() == 0: time.sleep(99)\\n    n += 1\\nexcept OSError: pass\\nprint(6 if n > 16 else n)",
            "memory": "kept = []\\nwhile True: kept.append(bytearray(10**7))",
            "files": "k = 0\\nwhile True:\\n  open(f'/tmp/{k}', 'w').close(); k += 1",
            "namespace": "import ctypes\\nprint(6 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 7)",
            "home": "import os\\nprint(6 if os.path.exists('/root') or os.path.exists('/home') else 7)",
            "lives on": "import os, time\\nif os.fork() == 0:\\n  os.setsid(); time.sleep(99)\\nprint(7)",
            "kills": "import os\\nos.kill(1, 9)\\nos.kill(os.getppid(), 9)\\nos.kill(-1, 9)\\nprint(6)",
        }
        for name, text in answers.items():
            whys = []
            print(name, code(["```python\\n" + text + "\\n```"], log_why=whys.extend, tests=[[{"input": "", "output": "6"}]]), whys)
        code.programs.close()
    """
    folder = Path(tempfile.mkdtemp(prefix="groupwise-user-"))
    try:
        shutil.copytree(
            Path(groupwise.__file__).parent, folder / "groupwise", ignore=shutil.ignore_patterns("__pycache__")
        )
        if packaged_bwrap() is not None:
            for file in importlib.metadata.distribution(PACKAGE).files or ():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file.locate(), folder / file)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        done = subprocess.run(
            [python, "-c", textwrap.dedent(program).replace("\\\\", "\\")],
            cwd=folder, user=61000, group=61000, extra_groups=[], env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    lines = dict(line.split(" [", 1) for line in done.stdout.splitlines()[1:])
    assert "is_root=False" in done.stdout, done.stdout + done.stderr
    assert {name for name, rest in lines.items() if rest.startswith("1.0]")} == {"right"}, done.stdout
    assert len(lines) == 8, done.stderr
    assert "out of memory" in lines["memory"]
    assert "more than 10000 files" in lines["files"]
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _uid(pid) == 61000 and not _is_zombie(pid)]


def _uid(pid):
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@needs_bubblewrap
@pytest.mark.slow
def test_nothing_is_left_when_the_program_is_killed():
    """SIGKILL of the program that trains ends every sandbox with it."""
    program = textwrap.dedent("""
        import os, signal, threading
        from groupwise.rewards.shipped.code import Code
        code = Code(limit_s=60, num_workers=1)
        code.load()
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
        text = "import os, time\\nos.setsid() if os.fork() == 0 else 0\\nopen('/proc/self/comm', 'w').write('left-behind-xy')\\ntime.sleep(60)"
        code(["```python\\n" + text + "\\n```"], tests=[[{"input": "", "output": ""}]])
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    for _ in range(50):
        names = [_name(pid) for pid in os.listdir("/proc") if pid.isdigit() and not _is_zombie(pid)]
        if "left-behind-xy" not in names:
            break
        subprocess.run(["sleep", "0.1"])
    assert "left-behind-xy" not in names


def _name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@needs_bubblewrap
def test_a_disk_is_looked_at_once_it_is_the_workers_own(monkeypatch):
    """While a sandbox is set up, its path to /tmp may lead to any file system."""
    looked = []
    monkeypatch.setattr(usage, "disk_usage", lambda folder: (looked.append(folder), (0, 10**6))[1])
    monkeypatch.setattr(process, "WATCH_S", 0.0)
    worker = process.Process(find_bubblewrap().backend, Limits())
    try:
        worker.await_start(60.0)
        assert not looked
        with pytest.raises(process.WorkerError, match="more than 10000 files"):
            worker.receive(process.Deadline(5.0))
    finally:
        worker.kill()


@needs_bubblewrap
def test_files_are_counted_in_the_folder_that_was_opened(tmp_path, monkeypatch):
    """The path leads elsewhere as soon as it has been looked at."""
    link = tmp_path / "link"
    link.symlink_to("/dev/shm")
    fstat = os.fstat

    def look(opened: int) -> os.stat_result:
        link.unlink()
        link.symlink_to("/")
        return fstat(opened)

    monkeypatch.setattr(os, "fstat", look)
    found = os.statvfs("/dev/shm")
    assert usage.disk_usage(link)[1] == found.f_files - found.f_ffree
