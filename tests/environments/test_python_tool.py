"""The tool `python` runs each program in the sandbox of the run, and a program that fails is a call that failed."""

from __future__ import annotations

import json

import pytest
from api_helpers import CHATS, trainer

from groupwise.environments.load import make_toolbox
from groupwise.errors import ConfigError
from groupwise.rewards.sandbox.backend_choice import BackendChoice, sandboxes_in_use, use
from groupwise.rewards.sandbox.detect import Found, find_bubblewrap
from groupwise.types import Call

IS_HERE = find_bubblewrap().backend is not None


@pytest.fixture(autouse=True)
def chosen():
    """Where bubblewrap does not work, programs run in plain processes."""
    use(BackendChoice("bubblewrap") if IS_HERE else BackendChoice("none", run_untrusted_code_without_sandbox=True))
    yield
    use(BackendChoice())


def run(code, timeout_s=30.0):
    toolbox = make_toolbox(["python"], timeout_s)
    (message,), (call,) = toolbox.run([Call("python", {"code": code})])
    return message["content"], call.error


def test_a_program_answers_with_what_it_prints():
    assert run("print(6 * 7)\nprint('so')") == ("42\nso\n", None)
    assert run("x = 3") == ("(The program has printed nothing.)", None)
    assert sandboxes_in_use() == ["bubblewrap" if IS_HERE else "none"], "the threads of calls follow the run's choice"


def test_a_program_that_fails():
    content, error = run("print('before')\n1 / 0")
    assert error == json.loads(content)["error"]
    assert "before raised ZeroDivisionError: division by zero" in error
    assert "Traceback" not in error


def test_a_program_that_does_not_end():
    """It counts as a failed call and not as a tool that hangs, which would end the run."""
    _, error = run("while True: pass", timeout_s=3.0)
    assert error.startswith("FailedProgramError: ")
    assert "1 s" in error


def test_a_call_with_another_argument_is_refused():
    (_,), (call,) = make_toolbox(["python"], 5).run([Call("python", {"source": "1"})])
    assert "missing a required argument: 'code'; it takes code." in call.error


def test_a_machine_without_a_sandbox_is_found_at_once(tmp_path, monkeypatch):
    for name in ("find_bubblewrap", "find_docker"):
        monkeypatch.setattr(f"groupwise.rewards.sandbox.backend_choice.{name}", lambda: Found(None, "There is none."))
    with pytest.raises(ConfigError, match=r"Tool python: It runs or evaluates what a model wrote, .* There is none."):
        trainer(tmp_path, data=CHATS, rest={"tools": ["python"]})
