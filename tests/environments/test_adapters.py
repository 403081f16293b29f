"""Environments and tools of other libraries, played without their libraries: what is called is all that counts.

`make environments` plays the real ones (bench/environments.py).
"""

from __future__ import annotations

import asyncio
import random
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from agents import agent_trainer, call
from episodes import ASKED, Recording, sampler
from tiny import EOS, tiny_tokenizer

from groupwise.config import Recipe, names
from groupwise.data.order import Draw
from groupwise.environments import Observation, Reply
from groupwise.environments.gym_env import GymEnvironment
from groupwise.environments.load import load_toolbox
from groupwise.environments.mcp_tools import MCP, mcp_tools
from groupwise.environments.open_env import OpenEnvironment
from groupwise.environments.tools import Toolbox
from groupwise.errors import ConfigError, EnvironmentFailedError
from groupwise.runs.reader import RunReader
from groupwise.types import Call, Problem

PROBLEM = Problem(0, ASKED)
TOKENS = tiny_tokenizer(chat=True)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Lake:
    """Of gymnasium's kind: walk to cell 2."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.place, self.seed, self.options = 0, seed, options
        return self.place, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.place += action
        return self.place, float(self.place == 2), self.place == 2, False, {}

    def close(self) -> None:
        self.is_closed = True


def test_gymnasium():
    moves = {"left": -1, "right": 1}
    lake = Lake()
    played = GymEnvironment(lake, lambda text: moves[text.strip()], "cell {}".format, options={"wide": True})
    assert played.reset(PROBLEM, 5) == user("cell 0")
    assert (lake.seed, lake.options) == (5, {"wide": True})
    assert played.step(Reply("right\n")) == Observation(user("cell 1"), 0.0)
    assert played.step(Reply("jump")) == Observation(user("No action: 'jump'"))
    assert played.step(Reply("right")) == Observation(user("cell 2"), 1.0, True)
    played.close()
    assert lake.is_closed


class Arena:
    """Of TextArena's kind: guess the number; the reward comes with the end."""

    def reset(self, num_players: int, seed: int | None = None) -> None:
        assert num_players == 1
        random.seed(seed)
        self.secret, self.said = random.randint(1, 3), "Guess from 1 to 3."

    def get_observation(self) -> tuple[int, str]:
        return 0, self.said

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        self.said, self.won = "No.", int(action) == self.secret
        return self.won, {}

    def close(self) -> tuple[dict[int, int], dict[str, Any]]:
        return {0: int(self.won)}, {}


def test_textarena():
    played = GymEnvironment(Arena(), num_players=1)
    assert played.reset(PROBLEM, 4) == user("Guess from 1 to 3.")
    secret = played.played.secret
    assert played.reset(PROBLEM, 4) == user("Guess from 1 to 3.")
    assert played.played.secret == secret
    assert played.step(Reply(str(secret % 3 + 1))) == Observation(user("No."))
    assert played.step(Reply(f" {secret} ")) == Observation((), 1.0, True)


@pytest.mark.parametrize("ended", [None, (1, 2, 3), (True, {})])
def test_what_no_such_environment_returns(ended):
    odd = SimpleNamespace(step=lambda action: ended, close=lambda: "over")
    with pytest.raises(EnvironmentFailedError, match=r"returned .*; expected"):
        GymEnvironment(odd).step(Reply("x"))


class Open:
    """Of OpenEnv's kind, in this process: what it returns is the observation."""

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Any:
        self.seed, self.total = seed, 0
        return SimpleNamespace(text="add up to 3", reward=None, done=False)

    def step(self, action: Any) -> Any:
        self.total += action.number
        return SimpleNamespace(text=f"{self.total}", reward=float(self.total), done=self.total >= 3)


class OpenClient:
    """A client of its server: what it returns holds the observation."""

    def __init__(self) -> None:
        self.inside = Open()

    async def reset(self, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        found = self.inside.reset(**kwargs)
        return SimpleNamespace(observation=SimpleNamespace(text=found.text), reward=found.reward, done=found.done)

    async def step(self, action: Any) -> Any:
        found = self.inside.step(action)
        return SimpleNamespace(observation=SimpleNamespace(text=found.text), reward=found.reward, done=found.done)


def number_of(text: str) -> Any:
    return SimpleNamespace(number=int(text))


@pytest.mark.parametrize("make", [Open, OpenClient])
def test_openenv(make):
    def said(observed: Any) -> str:
        return observed.text

    engine = Recording(lambda request, index: (*TOKENS.encode("2", add_special_tokens=False), EOS))
    playing = sampler(engine, lambda: OpenEnvironment(make(), number_of, said))
    (group,) = playing.sample([Draw(1, 0)], 2, 1)
    assert group.problem.prompt[-1]["content"] == "add up to 3"
    for completion in group.completions:
        assert [turn.reward for turn in completion.turns] == [2.0, 4.0]
        assert [m["content"] for m in completion.messages] == ["2", "2", "2", "4"]
    inside = getattr(playing.pool.latest[0].played, "inside", playing.pool.latest[0].played)
    assert inside.seed == group.environment[1]


def test_an_action_that_is_none_is_said():
    played = OpenEnvironment(Open(), number_of)
    assert "No action: invalid literal" in played.step(Reply("two")).messages[0]["content"]


class Server:
    """An MCP server in this process, and the client of it: a session, a list of tools, calls."""

    def __init__(self, *, old_names: bool = False, broken: bool = False) -> None:
        self.old_names, self.broken, self.loops, self.total = old_names, broken, set(), 0

    async def __aenter__(self) -> Server:
        if self.broken:
            raise ConnectionError("refused")
        self.loops.add(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *exception: object) -> None: ...

    async def list_tools(self) -> Any:
        schema = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
        name = "inputSchema" if self.old_names else "input_schema"
        return SimpleNamespace(tools=[SimpleNamespace(name="pay", description="Pays.", **{name: schema})])

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        self.loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        is_error = arguments["amount"] < 0
        self.total += 0 if is_error else arguments["amount"]
        text = "less than nothing" if is_error else f"{name} {arguments['amount']}"
        flag = "isError" if self.old_names else "is_error"
        return SimpleNamespace(content=[SimpleNamespace(type="text", text=text)], **{flag: is_error})


@pytest.mark.parametrize("old_names", [True, False])
def test_tools_of_an_mcp_server(old_names):
    server = Server(old_names=old_names)
    tools = mcp_tools(server)
    assert [(t.name, t.description, [*t.parameters["properties"]]) for t in tools] == [("pay", "Pays.", ["amount"])]
    messages, calls = Toolbox(tools, 5).run([Call("pay", {"amount": 3}), Call("pay", {"amount": -1})])
    assert messages[0] == {"role": "tool", "name": "pay", "content": "pay 3"}
    assert [each.error for each in calls] == [None, "McpError: less than nothing"]
    assert (server.total, len(server.loops)) == (3, 1)


def test_an_mcp_server_that_is_not_there():
    with pytest.raises(ConfigError, match="The MCP server does not answer: ConnectionError: refused"):
        mcp_tools(Server(broken=True))


def test_a_run_with_an_mcp_server(tmp_path, monkeypatch):
    def paid(completions: Any, **kwargs: Any) -> list[float]:
        return [float(completion[1]["content"].removeprefix("pay ")) for completion in completions]

    server = Server()
    speech = [call("pay", amount=2), "done"]
    made = agent_trainer(tmp_path, speech, monkeypatch, reward_funcs=paid, tools=mcp_tools(server))
    made.train()
    assert server.total == 8
    assert RunReader(tmp_path).metrics()[0]["reward"] == 2.0


@pytest.fixture
def sdk(monkeypatch):
    """The parts of the package mcp that are used, with servers by address and by command."""
    opened = []

    def client(server: Any) -> Server:
        opened.append(server)
        return Server(broken=server == "http://broken")

    fake = SimpleNamespace(Client=client, StdioServerParameters=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "mcp", fake)
    return opened


def test_a_recipe_names_the_server_itself(sdk):
    toolbox = load_toolbox(["mcp:http://localhost:8000/mcp"], None, 5)
    assert [*toolbox.tools] == ["pay"]
    load_toolbox(["mcp:my-server --name 'two words'"], None, 5)
    assert sdk == ["http://localhost:8000/mcp", SimpleNamespace(command="my-server", args=["--name", "two words"])]
    assert names.MCP == MCP


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("http://broken", "tools: mcp:http://broken: The MCP server does not answer: ConnectionError: refused"),
        ("my-server 'x", "tools: mcp:my-server 'x: No closing quotation. Close the quotation."),
    ],
)
def test_a_server_that_cannot_be_asked_is_named(sdk, server, words):
    with pytest.raises(ConfigError) as found:
        load_toolbox([f"mcp:{server}"], None, 5)
    assert str(found.value) == words


@pytest.mark.parametrize("fake", [None, SimpleNamespace()], ids=["missing", "old"])
def test_without_the_sdk_the_extra_is_named(monkeypatch, fake):
    monkeypatch.setitem(sys.modules, "mcp", fake)
    with pytest.raises(ConfigError, match=r'pip install "groupwise\[mcp\]"'):
        load_toolbox(["mcp:http://localhost:8000/mcp"], None, 5)


@pytest.mark.parametrize("name", ["mcp:", "mcp: ", "mcp"])
def test_a_server_without_an_address_is_refused(name):
    with pytest.raises(ConfigError, match='there is no tool "mcp'):
        Recipe(data="python-docs", rewards=["length"], tools=[name])
