# ruff: noqa: E501
"""Programs that try to get a reward without solving anything: each scores 0."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

DOUBLES = ["assert double(3) == 6", "assert double(10) == 20", "assert double(-4) == -8"]
PRINTS = [{"input": "3\n", "output": "6\n"}, {"input": "10\n", "output": "20\n"}]
CHECK = "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(10) == 20\n"

FRAME = (
    "import json, os, struct\ndef frame(m):\n    d = json.dumps(m).encode()\n    return struct.pack('>I', len(d)) + d\n"
)

WITHOUT_ANSWERING = {
    "nothing": "",
    "exit 0": "import sys\nsys.exit(0)",
    "exit at once": "import os\nos._exit(0)",
    "exit when it ends": "import atexit, os\natexit.register(os._exit, 0)",
    "exit inside exit": "import atexit, sys\natexit.register(sys.exit, 0)",
    "exit in a thread": "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()",
    "another program": "import os\nos.execv('/bin/true', ['true'])",
    "a verdict printed": FRAME + "for m in ({'failed': None}, {'value': None, 'nonce': ''}, {'passed': True}):\n    print(frame(m).decode('latin-1'))",
    "a verdict to every descriptor": FRAME + "for fd in range(64):\n    for m in ({'failed': None}, {'value': None}):\n        try: os.write(fd, frame(m) * 9)\n        except OSError: pass",
    "a call to every descriptor": FRAME + "for fd in range(64):\n    try: os.write(fd, frame({'call': {'object': 0, 'name': 'x', 'args': [], 'kwargs': {'dict': []}}}) * 9)\n    except OSError: pass",
    "noise to every descriptor": "import os\nfor fd in range(64):\n    try: os.write(fd, os.urandom(4096))\n    except OSError: pass",
    "descriptors closed": "import os\nos.closerange(0, 64)",
    "reads the pipe": "import os\nfor fd in range(64):\n    try: os.set_blocking(fd, False); os.read(fd, 10**6)\n    except OSError: pass",
    "exit status of a signal": "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(0))\nos.kill(os.getpid(), 15)",
}  # fmt: skip

PATCHES = {
    "builtins": "import builtins\nfor n in ('AssertionError', 'Exception', 'BaseException'):\n    setattr(builtins, n, SystemExit)\nbuiltins.all = builtins.any = builtins.isinstance = lambda *a: True",
    "the harness": "import sys\nfor n, m in list(sys.modules.items()):\n    if 'inside' in n:\n        for k in list(vars(m)):\n            if callable(vars(m)[k]): setattr(m, k, lambda *a, **k: None)",
    "json": "import json\njson.dumps = lambda *a, **k: '{\"failed\": null, \"value\": null}'\njson.loads = lambda *a, **k: {}",
    "os.write": "import os\nos.write = lambda fd, data: len(data)\nos.read = lambda fd, n: b''",
    "exec": "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
    "frames above": "import sys\nf = sys._getframe()\nwhile f:\n    for k in list(f.f_globals):\n        if k != '__builtins__': f.f_globals[k] = lambda *a, **k: None\n    f = f.f_back",
    "a trace function": "import sys\ndef t(*a): raise SystemExit\nsys.settrace(t)",
    "an import hook": "import sys\nclass F:\n    def find_spec(self, *a): raise SystemExit\nsys.meta_path.insert(0, F())\nsys.modules.clear()",
    "__main__": "import sys, types\nm = types.ModuleType('__main__')\nm.check = lambda *a: None\nsys.modules['__main__'] = sys.modules['answer'] = m",
    "int through memory": "import ctypes\nctypes.memset(id(6) + 24, 1, 4)\nctypes.memset(id(20) + 24, 1, 4)",
    "a signal handler": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)",
    "a module of that name": "import os, sys\nos.makedirs('/tmp/groupwise'); open('/tmp/groupwise/__init__.py', 'w').write('')\nsys.path.insert(0, '/tmp')",
}  # fmt: skip

VALUES = {
    "equal to everything": "class E:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\ndef double(x): return E()",
    "a number equal to everything": "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef double(x): return E(7)",
    "a text equal to everything": "class E(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\ndef double(x): return E()",
    "a list equal to everything": "class E(list):\n    def __eq__(self, other): return True\ndef double(x): return E([7])",
    "every attribute": "class E:\n    def __getattr__(self, name): return lambda *a: True\ndef double(x): return E()",
    "unittest's ANY": "from unittest.mock import ANY\ndef double(x): return ANY",
    "unittest's Mock": "from unittest.mock import MagicMock\ndouble = MagicMock()",
    "itself": "def double(x): return double",
    "no function": "double = 6",
    "one constant": "def double(x): return 6",
    "not a number": "def double(x): return float('nan')",
    "exit": "import sys\ndef double(x): sys.exit(0)",
    "exit at once": "import os\ndef double(x): os._exit(0)",
    "AssertionError": "def double(x): raise AssertionError",
    "StopIteration": "def double(x): raise StopIteration",
    "GeneratorExit": "def double(x): raise GeneratorExit",
    "KeyboardInterrupt": "def double(x): raise KeyboardInterrupt",
    "EOFError": "def double(x): raise EOFError",
    "an error of its own making": "class EOFError(BaseException): pass\ndef double(x): raise EOFError",
    "a forged answer": FRAME + "def double(x):\n    for fd in range(64):\n        try: os.write(fd, frame({'failed': None}))\n        except OSError: pass\n    return 7",
    "a malformed answer": FRAME + "def double(x):\n    for fd in range(64):\n        for m in ({'value': {'int': 'x'}}, {'value': {'eval': '6'}}, {'kept': -1}, {'kept': 'x'}, [], None, {'raised': ['x']}):\n            try: os.write(fd, frame(m))\n            except OSError: pass\n    return 7",
    "an answer without end": FRAME + "def double(x):\n    for fd in range(64):\n        try: os.write(fd, b'\\x7f\\xff\\xff\\xff')\n        except OSError: pass\n    return 7",
}  # fmt: skip


def refused(arena, program, tests):
    reward, why = arena.attack(program, tests)
    assert reward == 0, why


@pytest.mark.parametrize("tests", [PRINTS, DOUBLES], ids=["prints", "asserts"])
@pytest.mark.parametrize("name", WITHOUT_ANSWERING)
def test_no_answer(arena, name, tests):
    refused(arena, WITHOUT_ANSWERING[name], tests)


@pytest.mark.parametrize("tests", [PRINTS, DOUBLES], ids=["prints", "asserts"])
@pytest.mark.parametrize("name", PATCHES)
def test_patching(arena, name, tests):
    wrong = "\ndef double(x): return 7\n" if tests is DOUBLES else "\nprint(7)\n"
    refused(arena, PATCHES[name] + wrong, tests)


@pytest.mark.parametrize("name", VALUES)
def test_values_that_lie(arena, name):
    refused(arena, VALUES[name], DOUBLES)


def test_functions_that_tests_use_cannot_be_replaced(arena):
    """A builtin name in a test is the builtin, whatever the program calls so."""
    program = "def abs(x): return 0\ndef all(x): return True\ndef len(x): return 3\ndef double(x): return 7"
    refused(arena, program, ["assert abs(double(3) - 6) < 1e-6"])
    refused(arena, program, ["assert all(double(x) == 2 * x for x in range(9))"])


def test_ending_a_loop_of_the_test_early(arena):
    """StopIteration would end a loop over `map` as if all had passed."""
    loop = "for got, wanted in zip(map(double, [3, 4]), [6, 8]):\n    assert got == wanted"
    refused(arena, "def double(x): raise StopIteration", [loop])


def test_changing_what_the_test_compares_with(arena):
    """Arguments are copies: emptying the list that the test compares with empties the program's own."""
    refused(arena, "def ordered(x):\n    x.clear()\n    return x", ["x = [2, 1]\nassert ordered(x) == sorted(x)"])


def test_bringing_its_own_check(arena):
    code = arena.code
    arena.code.programs.timeout_s = 5.0
    own = "def check(f): pass\ncandidate = None\ndef double(x): return 7"
    reward = type(code)(entry_point="entry", limit_s=5.0, num_workers=1)
    rewards = reward([f"```python\n{own}\n```"] * 2, tests=[CHECK, "check(double)\n" + CHECK], entry=["double"] * 2)
    reward.programs.close()
    assert rewards == [0, 0]


@pytest.mark.parametrize(
    "completion",
    ["", "6", "```python\nprint(6)", "```js\nprint(6)\n```", "``` python\n```", "```python\n\0\n```", "```python\n\ud800\n```",
     "```python\n" + "(" * 10**5 + "\n```", "```python\n" + "x = 1\n" * 10**4 + "\n```", "```\n" * 10**4],
)  # fmt: skip
def test_odd_completions(arena, completion):
    arena.code.programs.timeout_s = 5.0
    for tests in (PRINTS, DOUBLES):
        assert arena.code([completion], tests=[tests]) == [0]


def test_a_right_program_still_gets_its_reward(arena):
    arena.still_works()
