"""The adapters of environments and tools against the real packages, each installed into an environment of its own.

Usage: python bench/environments.py            (`make environments`)

Each package gets a virtual environment under bench/.venvs/, in which this environment's packages are found too, and
plays there what its adapter is for. A package that would bring another torch is not installed. Written to
bench/results/environments.json: versions, megabytes, what was played, and in how many seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import common

REQUIREMENTS = {
    "gymnasium": "gymnasium==1.4.0",
    "textarena": "textarena==0.7.4",
    "mcp": "mcp==2.3.0",
    "openenv": "openenv==0.10.0",
}
SERVER = """
from mcp.server import MCPServer
server = MCPServer("sums")
@server.tool()
def add(a: int, b: int) -> int:
    "Adds two numbers."
    return a + b
server.run("stdio")
"""


def play_gymnasium() -> dict[str, Any]:
    """Two steps on the frozen lake."""
    import gymnasium

    from groupwise.environments import Reply
    from groupwise.environments.gym_env import GymEnvironment

    moves = {"left": 0, "down": 1, "right": 2, "up": 3}
    played = GymEnvironment(gymnasium.make("FrozenLake-v1", is_slippery=False), lambda text: moves[text.strip()])
    assert _texts(played.reset(_problem(), 3)) == ["0"]
    found = [played.step(Reply(move)) for move in ("right", "fly", "right", "down", "down", "down", "right")]
    played.close()
    assert (found[-1].reward, found[-1].done) == (1.0, True)
    return {"played": "FrozenLake-v1", "steps": len(found), "reward": found[-1].reward}


def play_textarena() -> dict[str, Any]:
    """A game of guessing, twice from the same seed."""
    import textarena

    from groupwise.environments import Reply
    from groupwise.environments.gym_env import GymEnvironment

    def said(seen: Any) -> str:
        return "\n".join(text for sender, text, *_ in seen if sender == textarena.GAME_ID)

    played = GymEnvironment(textarena.make("GuessTheNumber-v0-raw"), say=said, num_players=1)
    ends = []
    for _ in range(2):
        assert "guess the number" in _texts(played.reset(_problem(), 3))[0]
        steps = [played.step(Reply("[1]"))]
        for guess in range(2, 10):
            if not steps[-1].done:
                steps.append(played.step(Reply(f"[{guess}]")))
        assert steps[-1].done
        ends.append((len(steps), steps[-1].reward))
    assert ends[0] == ends[1], ends
    return {"played": "GuessTheNumber-v0-raw", "steps": ends[0][0], "reward": ends[0][1]}


def play_mcp() -> dict[str, Any]:
    """The tools of a server in this process, and of one started as a program."""
    from mcp import Client
    from mcp.server import MCPServer

    from groupwise.environments import Call, Toolbox
    from groupwise.environments.mcp_tools import mcp_tools, tools_at

    inside = MCPServer("products")

    @inside.tool()  # type: ignore[untyped-decorator]
    def multiply(a: int, b: int) -> int:
        """Multiplies two numbers."""
        return a * b

    script = common.BENCH / ".work" / "mcp_server.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SERVER)
    program = shlex.join([sys.executable, str(script)])
    toolbox = Toolbox([*mcp_tools(Client(inside)), *tools_at(program)], 10)
    asked = [Call("multiply", {"a": 3, "b": 4}), Call("add", {"a": 3, "b": 4}), Call("add", {"a": "x"})]
    messages, calls = toolbox.run(asked)
    assert [message["content"] for message in messages[:2]] == ["12", "7"]
    assert calls[2].error is not None
    return {"played": "a server in this process and one over stdio", "steps": len(calls)}


def play_openenv() -> dict[str, Any]:
    """An environment of the framework's own classes: in this process, and by a client of its server."""
    from openenv.core import GenericAction, GenericEnvClient

    from groupwise.environments.open_env import OpenEnvironment

    made, action = _open_environment()
    rewards = _rewards_of(OpenEnvironment(made, action, lambda observed: observed.text))
    client = GenericEnvClient(_served(made, action))
    played = OpenEnvironment(client, lambda text: GenericAction(number=int(text)), lambda observed: observed["text"])
    assert rewards == _rewards_of(played) == [2.0, None, 3.0]
    return {"played": "an Environment in this process, and a client of its server", "steps": 6, "reward": rewards[-1]}


def _rewards_of(played: Any) -> list[float | None]:
    from groupwise.environments import Reply
    from groupwise.environments.crew import Crew

    calls = [functools.partial(played.step, Reply(text)) for text in ("2", "two", "1")]
    answers = [Crew().run([call], 30)[0] for call in (functools.partial(played.reset, _problem(), 3), *calls)]
    assert [answer.error for answer in answers] == [None] * 4, answers
    assert _texts(answers[0].value) == ["add up to 3"]
    assert answers[-1].value.done
    played.close()
    return [answer.value.reward for answer in answers[1:]]


def _served(made: Any, action: Callable[[str], Any]) -> str:
    """The address of a server of such environments, in a thread."""
    import uvicorn
    from openenv.core import create_fastapi_app

    app = create_fastapi_app(type(made), type(action("1")), type(made.reset()))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def _open_environment() -> tuple[Any, Callable[[str], Any]]:
    from openenv.core.env_server import Action, Environment, Observation, State

    class Add(Action):
        number: int

    class Total(Observation):
        text: str = ""

    class Till(Environment):
        def __init__(self) -> None:
            super().__init__()
            self.total = 0

        def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Total:
            self.total = 0
            return Total(text="add up to 3", reward=None, done=False)

        def step(self, action: Add, timeout_s: float | None = None, **kwargs: Any) -> Total:
            self.total += action.number
            return Total(text=str(self.total), reward=float(self.total), done=self.total >= 3)

        @property
        def state(self) -> State:
            return State()

    return Till(), lambda text: Add(number=int(text))


PLAYERS = {
    "gymnasium": play_gymnasium,
    "textarena": play_textarena,
    "mcp": play_mcp,
    "openenv": play_openenv,
}


def _problem() -> Any:
    from groupwise.types import Problem

    return Problem(0, [{"role": "user", "content": "Play."}])


def _texts(messages: Any) -> list[str]:
    return [message["content"] for message in messages]


def tried(name: str, folder: Path) -> dict[str, Any]:
    """Install a package into an environment of its own, and play it there."""
    python, brought = _environment(name, folder)
    if python is None:
        return {"requirement": REQUIREMENTS[name], "is_installed": False, "why": brought}
    start = perf_counter()
    ended = subprocess.run(
        [str(python), str(Path(__file__).resolve()), "--play", name], capture_output=True, text=True, timeout=600
    )
    found = re.search(r"^RESULT (.*)$", ended.stdout, re.MULTILINE)
    if found is None:
        print(ended.stdout[-2000:], ended.stderr[-4000:], sep="\n")
    result = json.loads(found[1]) if found else {"failed": ended.stderr.strip().splitlines()[-1:]}
    return {"requirement": REQUIREMENTS[name], "is_installed": True, **brought, **result, "s": perf_counter() - start}


def _environment(name: str, folder: Path) -> tuple[Path | None, Any]:
    """Its interpreter, with what was installed; or None, with why not."""
    place = folder / f"environment-{name}"
    python = place / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    wanted = [*install, "-c", str(common.ROOT / "constraints.txt"), REQUIREMENTS[name]]
    dry = subprocess.run([*wanted, "--dry-run", "--report", "-"], capture_output=True, text=True)
    if dry.returncode:
        return None, f"pip: {dry.stderr.strip().splitlines()[-1]}"
    names = sorted(each["metadata"]["name"].lower() for each in json.loads(dry.stdout)["install"])
    if any(each == "torch" or each.startswith("nvidia") for each in names):
        return None, "it brings another torch"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    before = _megabytes(packages)
    subprocess.run(wanted, check=True)
    (packages / "of_groupwise.pth").write_text(f"{sysconfig.get_path('purelib')}\n{common.ROOT}\n")
    return python, {"num_packages": len(names), "megabytes": _megabytes(packages) - before}


def _megabytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) >> 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*REQUIREMENTS], help="packages, by default all")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=common.BENCH / "results" / "environments.json")
    args = parser.parse_args()
    if args.play:
        print("RESULT " + json.dumps(PLAYERS[args.play]()))
        return
    header = common.header()
    results = {name: tried(name, common.BENCH / ".venvs") for name in args.names}
    for name, result in results.items():
        print(name, result)
    common.save(args.output, {**header, "packages": results})
    sys.exit(any("played" not in result for result in results.values()))


if __name__ == "__main__":
    main()
