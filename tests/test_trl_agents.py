"""TRL's programs with tools and environments, with the import changed: each shape that its documentation shows."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import pytest
from agents import ASKED, agent_trainer, call
from datasets import Dataset

from groupwise.errors import ConfigError, DataError
from groupwise.runs.metrics import unknown_keys
from groupwise.runs.reader import RunReader


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: First factor.
        b: Second factor.

    Returns:
        The product.
    """
    return a * b


async def add(a: int, b: int) -> int:
    """
    Adds two integers, slowly.

    Args:
        a: First summand.
        b: Second summand.

    Returns:
        The sum.
    """
    await asyncio.sleep(0.01)
    return a + b


class Counter:
    """A number that the policy counts up."""

    def __init__(self) -> None:
        self.value = 0

    def reset(self, **kwargs: Any) -> str | None:
        self.value, self.row = 0, kwargs
        return None

    def increment(self, step: int) -> int:
        """
        Counts up.

        Args:
            step: By how much.

        Returns:
            The value after it.
        """
        self.value += step
        return self.value

    def _hidden(self) -> None:
        """No tool."""


def values(environments: Any, **kwargs: Any) -> list[float]:
    return [float(environment.value) for environment in environments]


def lengths(completions: Any, **kwargs: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def completions_of(folder: Any) -> list[Any]:
    return [each for group in RunReader(folder).completions(1) for each in group["completions"]]


def test_tools_are_called_and_their_results_read(tmp_path, monkeypatch):
    seen = {}

    def right(completions: Any, factor: Any, **kwargs: Any) -> list[float]:
        seen.update(completions=completions, kwargs=kwargs)
        pairs = zip(completions, factor, strict=True)
        return [float(str(4 * n) in completion[-1]["content"]) for completion, n in pairs]

    speech = [call("multiply", a=3, b=4) + call("add", a=1, b=1), "it is 12"]
    made = agent_trainer(tmp_path, speech, monkeypatch, reward_funcs=right, tools=[multiply, add])
    assert made.tools == [multiply, add]
    made.train()
    for called, product, total, last in seen["completions"]:
        names = [each["function"]["name"] for each in called["tool_calls"]]
        assert (called["role"], names) == ("assistant", ["multiply", "add"])
        assert called["tool_calls"][0]["function"]["arguments"] == {"a": 3, "b": 4}
        assert (product, total) == (
            {"role": "tool", "name": "multiply", "content": "12"},
            {"role": "tool", "name": "add", "content": "2"},
        )
        assert last == {"role": "assistant", "content": "it is 12"}
    assert len(seen["kwargs"]["environments"]) == 4
    metrics = RunReader(tmp_path).metrics()[0]
    assert (metrics["tools/call_frequency"], metrics["tools/failure_frequency"]) == (2.0, 0.0)
    assert unknown_keys(metrics) == []
    assert RunReader(tmp_path).config["used"]["tools"] == ["multiply", "add"]
    assert "rewards/tools/mean" not in metrics, "tools alone give no reward"
    first = made.parts.problems[0]
    shown = made.processing_class.decode(first.prompt_ids)
    assert shown.count("Multiplies two integers.") == 1
    assert made.processing_class.decode(seen["kwargs"]["completion_ids"][0]).count("it is 12") == 1


def test_an_environment_is_played_by_its_methods(tmp_path, monkeypatch):
    made = agent_trainer(
        tmp_path,
        lambda index, turn: call("increment", step=index + 1) if turn < 2 else "done",
        monkeypatch,
        reward_funcs=[values],
        environment_factory=Counter,
    )
    assert [tool.__name__ for tool in made.tools] == ["increment"]
    made.train()
    assert [c["reward"] for c in completions_of(tmp_path)] == [2.0, 4.0] * 2
    assert [environment.value for environment in made.environments] == [2, 4] * 2
    assert made.environment_factories.keys() == {None}
    assert all(environment.row.keys() == {"prompt", "factor"} for environment in made.environments)
    assert made.reward_func_names == ["values"]
    (group, *_) = RunReader(tmp_path).completions(1)
    assert group["environment"]["name"] == "Counter"
    first = group["completions"][0]
    assert [turn["calls"][0]["arguments"] for turn in first["turns"][:2]] == [{"step": 1}] * 2


def test_calls_of_one_turn_change_an_environment_in_their_order(tmp_path, monkeypatch):
    class Diary:
        def reset(self, **row: Any) -> None:
            self.lines: list[str] = []

        async def write(self, line: str, seconds: float) -> str:
            """Writes, slowly.

            Args:
                line: what.
                seconds: how slowly.
            """
            await asyncio.sleep(seconds)
            self.lines.append(line)
            return "".join(self.lines)

    def read(environments: Any, **kwargs: Any) -> list[float]:
        return [float("".join(environment.lines) == "abc") for environment in environments]

    slowly = [call("write", line=line, seconds=s) for line, s in (("a", 0.05), ("b", 0.02), ("c", 0))]
    speech = ["".join(slowly), "done"]
    made = agent_trainer(tmp_path, speech, monkeypatch, environment_factory=Diary, reward_funcs=read)
    made.train()
    for completion in completions_of(tmp_path):
        assert completion["reward"] == 1.0
        assert [m["content"] for m in completion["messages"][1:4]] == ["a", "ab", "abc"]


class Owned(Counter):
    """Poses its own problem and knows what the answer is worth."""

    def reset(self, **kwargs: Any) -> str:
        super().reset(**kwargs)
        self.goal = random.randint(0, 99)
        return f" Count to {self.goal}."

    async def get_reward(self) -> float:
        await asyncio.sleep(0)
        return float(self.value == 1)


def test_an_environment_owns_prompt_and_reward_without_data(tmp_path, monkeypatch):
    made = agent_trainer(
        tmp_path,
        lambda index, turn: call("increment", step=index) if turn == 0 else "done",
        monkeypatch,
        train_dataset=None,
        environment_factory=Owned,
    )
    assert made.reward_func_names == ["Owned"]
    made.train()
    assert [c["rewards"] for c in completions_of(tmp_path)] == [{"Owned": 0.0}, {"Owned": 1.0}] * 2
    for group in RunReader(tmp_path).completions(1):
        assert re.fullmatch(r" Count to \d+\.", group["prompt"][-1]["content"]), "one start for the group"
    assert RunReader(tmp_path).metrics()[0]["environment/start_differs"] == 0


def test_reward_functions_stand_beside_that_of_the_environment(tmp_path, monkeypatch):
    arguments = {"reward_funcs": lengths, "environment_factory": Owned, "args": {"reward_weights": [0.5]}}
    made = agent_trainer(tmp_path, ["nothing to call"], monkeypatch, **arguments)
    made.train()
    assert [c["reward"] for c in completions_of(tmp_path)] == [0.5] * 4
    assert made.reward_func_names == ["lengths", "Owned"]


class Echo:
    def reset(self, prompt: Any, seed: int) -> None:
        self.said, self.seed = "", seed

    def echo(self, text: str) -> str:
        """
        Says it again.

        Args:
            text: What to say.
        """
        self.said = text
        return text


KINDS = [{"environment": kind, "factor": n} for n, kind in enumerate(["count", "echo", "again", "echo"])]


@pytest.mark.parametrize("as_dataset", [True, False])
def test_a_column_chooses_among_several_environments(tmp_path, monkeypatch, as_dataset):
    """Each row shows the tools of its own environment alone, and one class under two names has one reward."""

    def said(environments: Any, environment: Any, **kwargs: Any) -> list[float | None]:
        return [len(e.said) if kind == "echo" else None for e, kind in zip(environments, environment, strict=True)]

    speech = [call("increment", step=1) + call("echo", text="so"), "done"]
    made = agent_trainer(
        tmp_path, speech, monkeypatch, reward_funcs=said,
        train_dataset=Dataset.from_list(KINDS) if as_dataset else KINDS,
        environment_factory={"count": Owned, "echo": Echo, "again": Owned},
        args={"per_device_train_batch_size": 8, "shuffle_dataset": False},
    )  # fmt: skip
    assert made.reward_func_names == ["said", "Owned"]
    assert sorted(tool.__name__ for tool in made.tools) == ["echo", "increment"]
    made.train()
    shown = [made.processing_class.decode(made.parts.problems[row].prompt_ids) for row in range(4)]
    assert ["Counts up." in text for text in shown] == [True, False, True, False]
    assert ["Says it again." in text for text in shown] == [False, True, False, True]
    groups = RunReader(tmp_path).completions(1)
    assert [group["environment"]["name"] for group in groups] == ["Owned", "Echo", "Owned", "Echo"]
    rewards = [group["completions"][0]["rewards"] for group in groups]
    assert rewards == [{"said": None, "Owned": 1.0}, {"said": 2.0, "Owned": None}] * 2
    results = [message["content"] for message in groups[0]["completions"][0]["messages"] if message["role"] == "tool"]
    assert results[0] == "1"
    assert "there is no tool" in results[1]
    assert "environment" not in made.environments[0].row, "the column chooses and is not handed on"
    assert made.environments[2].seed == made.environments[3].seed


def test_rounds_of_calls_are_counted_as_turns(tmp_path, monkeypatch):
    arguments = {"reward_funcs": values, "environment_factory": Counter, "args": {"max_tool_calling_iterations": 2}}
    made = agent_trainer(tmp_path, [call("increment", step=1)], monkeypatch, **arguments)
    assert (made.args.max_turns, made.args.max_tool_calling_iterations) == (3, 2)
    made.train()
    for completion in completions_of(tmp_path):
        assert len(completion["turns"]) == 3
        assert completion["stop_reason"] == "turns"
    unlimited = agent_trainer(tmp_path / "b", ["x"], monkeypatch, reward_funcs=values, environment_factory=Counter)
    assert unlimited.args.max_turns == 1_000_000
    assert unlimited.args.max_tool_calling_iterations is None


class Shop(BaseHTTPRequestHandler):
    """A server of environments, one session an id."""

    sessions: ClassVar[dict[str, int]] = {}

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        session = self.sessions
        if self.path == "/reset":
            session[asked["id"]] = 0
        else:
            session[asked["id"]] += asked["amount"]
        body = json.dumps({"total": session[asked["id"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Any:
    server = HTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_environment_whose_server_answers(tmp_path, monkeypatch, address):
    """The documentation's environments live on servers: a client in the constructor, a call in each method."""

    class Client:
        def __init__(self) -> None:
            self.id, self.total = str(id(self)), 0

        def _ask(self, path: str, **what: Any) -> int:
            body = json.dumps({"id": self.id, **what}).encode()
            with urlopen(Request(f"{address}/{path}", body), timeout=10) as answer:
                return json.load(answer)["total"]

        def reset(self, **kwargs: Any) -> str:
            self.total = self._ask("reset")
            return f" The till holds {self.total}."

        def pay(self, amount: int) -> str:
            """Pays into the till.

            Args:
                amount: How much.
            """
            self.total = self._ask("pay", amount=amount)
            return f"The till holds {self.total}."

    def total(environments: Any, **kwargs: Any) -> list[float]:
        return [float(environment.total) for environment in environments]

    speech = [call("pay", amount=3), call("pay", amount=4), "enough"]
    made = agent_trainer(tmp_path, speech, monkeypatch, reward_funcs=total, environment_factory=Client)
    made.train()
    assert [c["reward"] for c in completions_of(tmp_path)] == [7.0] * 4
    (group, *_) = RunReader(tmp_path).completions(1)
    assert group["prompt"][-1]["content"].endswith(" The till holds 0.")


def test_a_client_keeps_its_event_loop(tmp_path, monkeypatch):
    """`reset`, tools and `get_reward` of all instances run in one loop, in training and in evaluation."""
    loops = set()

    class Async:
        async def reset(self, **kwargs: Any) -> None:
            loops.add(asyncio.get_running_loop())

        async def wait(self, seconds: float) -> str:
            """Waits.

            Args:
                seconds: How long.
            """
            loops.add(asyncio.get_running_loop())
            await asyncio.sleep(seconds)
            return "waited"

        async def get_reward(self) -> float:
            loops.add(asyncio.get_running_loop())
            return 1.0

    speech = [call("wait", seconds=0.01), "done"]
    made = agent_trainer(tmp_path, speech, monkeypatch, environment_factory=Async, eval_dataset=ASKED[:2])
    made.train()
    assert made.evaluate()["eval_reward"] == 1.0
    assert len(loops) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"rollout_func": print, "reward_funcs": values}, ConfigError, '"rollout_func": .* write an environment'),
        ({"environment_factory": {}, "reward_funcs": values}, ConfigError, "environment is an empty dict"),
        (
            {"environment_factory": lambda x: x, "reward_funcs": values},
            ConfigError,
            "cannot be made without arguments: mi",
        ),
        ({"environment_factory": 3}, ConfigError, "environment is 3"),
        ({"environment_factory": dict}, ConfigError, "is a dict without reset"),
        ({"environment_factory": Counter}, ConfigError, "There is no reward function"),
        ({"environment_factory": Counter, "environment": Counter}, ConfigError, "mean the same"),
        ({"reward_funcs": values}, Exception, '"values" takes "environments"'),
        ({"environment_factory": {"a": Owned}}, DataError, "no column 'environment'"),
        ({"environment_factory": {"a": Owned}, "train_dataset": None}, ConfigError, "give train_dataset"),
        (
            {"environment_factory": {"echo": Echo, "count": Owned}, "train_dataset": KINDS},
            DataError,
            "row 3 of the data has environment 'again'; there is echo and count",
        ),
        (
            {"environment_factory": Owned, "train_dataset": None, "args": {"max_steps": -1}},
            ConfigError,
            "Without train_dataset, max_steps",
        ),
        ({"tools": [multiply], "reward_funcs": values, "train_dataset": None}, ConfigError, "needs train_dataset"),
        (
            {"tools": [multiply], "reward_funcs": lengths, "args": {"tool_timeout_s": 120}},
            ConfigError,
            "tool_timeout_s 120 is not below environment_timeout_s 120",
        ),
        (
            {"reward_funcs": lengths, "args": {"max_tool_calling_iterations": -1}},
            ConfigError,
            "a whole number",
        ),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_sampled(tmp_path, monkeypatch, arguments, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        agent_trainer(tmp_path, ["x"], monkeypatch, **arguments)


def test_a_reset_that_needs_what_the_data_lacks(tmp_path, monkeypatch):
    class Room(Owned):
        def reset(self, key: str, factor: int) -> str:
            return ""

    with pytest.raises(ConfigError, match=r"Room.reset takes key, which is no column .* by name: factor, prompt"):
        agent_trainer(tmp_path, ["x"], monkeypatch, environment_factory=Room)


def test_an_environment_with_nothing_to_call(tmp_path, monkeypatch):
    class Idle:
        def reset(self):
            return None

    with pytest.raises(ConfigError, match="Idle has no public method that the policy could call, no get_reward and no"):
        agent_trainer(tmp_path, ["x"], monkeypatch, environment_factory=Idle)


def test_a_method_that_does_not_describe_itself(tmp_path, monkeypatch):
    class Bare(Owned):
        def guess(self, word: str) -> str:
            return word

    with pytest.raises(ConfigError, match=r"Tool guess \(.*test_trl_agents.py, line \d+\)"):
        agent_trainer(tmp_path, ["x"], monkeypatch, environment_factory=Bare)


def test_a_recipe_names_a_class_of_this_kind(tmp_path):
    from api_helpers import model_folder, write_recipe

    from groupwise import GRPOTrainer
    from groupwise.config import load_recipe

    base = model_folder(tmp_path / "model", max_position_embeddings=1024)
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, worth=1.0):\n        self.worth = worth\n"
        "    def reset(self, answer, **kwargs):\n        self.answer = answer\n        return ' so'\n"
        "    def get_reward(self):\n        return self.worth\n"
    )
    path = write_recipe(tmp_path / "r.yaml", base, rewards=None, environment={"name": "mine.py:Mine", "worth": 2.0})
    recipe = load_recipe(path)
    made = GRPOTrainer.from_recipe(recipe, folder=recipe.folder)
    made.train()
    (group, *_) = RunReader(recipe.config.output_dir).completions(1)
    assert group["prompt"].endswith(" so")
    assert group["completions"][0]["rewards"] == {"Mine": 2.0}
