"""A recorded step played again: equal with a deterministic environment, and each way to differ by its name."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_helpers import CHATS, model_folder, trainer, write_recipe

from groupwise.cli import main
from groupwise.environments import Call, Observation, Reply
from groupwise.errors import RunError
from groupwise.replay import replay
from groupwise.runs.reader import RunReader

SETTINGS: dict[str, Any] = {
    "max_steps": 2, "num_generations": 3, "max_completion_length": 60, "max_turn_length": 5, "learning_rate": 0.02,
}  # fmt: skip


class Dice:
    """What it answers depends on the reply and on its dice; the third turn ends it. Worth the vowels of each turn."""

    def reset(self, problem: Any, seed: int) -> Any:
        self.dice, self.turn = random.Random(seed), 0
        return [{"role": "user", "content": f"begin {self.dice.randint(0, 9)}"}]

    async def step(self, reply: Reply) -> Observation:
        self.turn += 1
        reward = float(sum(reply.text.count(vowel) for vowel in "aeiou"))
        said = [{"role": "user", "content": f"{reply.text[:3]} {self.dice.randint(0, 9)}"}]
        return Observation(said, reward=reward, done=self.turn == 3, calls=(Call("look", {"n": self.turn}),))

    def final_reward(self) -> float:
        return 0.25

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dice"
    trainer(folder, rewards=None, data=CHATS, rest={"environment": Dice}, **SETTINGS).train()
    return folder


def played(run: Path, environment: Any, **options: Any) -> Any:
    return replay(run, **{"environment": environment, "problems": CHATS, **options})


def test_a_deterministic_environment_is_equal(run):
    found = played(run, Dice, step=1)
    assert found.is_equal
    groups = RunReader(run).completions(1)
    assert (found.step, found.environment, found.num_completions) == (1, "Dice", 3 * len(groups))
    assert found.num_turns == sum(len(c["turns"]) for group in groups for c in group["completions"])
    assert str(found).endswith("equal: every observation, reward, call, state and end is the recorded one.")
    assert played(run, Dice).step == 2


def test_delays_change_nothing(run):
    class Slow(Dice):
        def step(self, reply: Reply) -> Any:
            time.sleep(random.random() / 50)
            return super().step(reply)

    assert played(run, Slow).is_equal


COUNTER = itertools.count()


def changed(**answers: Callable[[Observation], Any]) -> type[Dice]:
    """Dice whose second turn answers otherwise."""

    class Changed(Dice):
        async def step(self, reply: Reply) -> Any:
            found = await super().step(reply)
            if self.turn < 2:
                return found
            fields = {name: getattr(found, name) for name in ("messages", "reward", "done", "calls")}
            return Observation(**{**fields, **{name: make(found) for name, make in answers.items()}})

    return Changed


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ({"messages": lambda found: [{"role": "user", "content": f"{next(COUNTER)}"}]}, "observation"),
        ({"messages": lambda found: [{**found.messages[0], "role": "tool"}]}, "observation"),
        ({"reward": lambda found: found.reward + 1e-9}, "reward"),
        ({"reward": lambda found: None}, "reward"),
        ({"done": lambda found: True}, "end"),
        ({"calls": lambda found: (Call("look", {"n": 2}, error="dark"),)}, "calls"),
        ({"messages": lambda found: 1 / 0}, "failure"),
    ],
)
def test_what_differs_is_named(run, answers, what):
    found = played(run, changed(**answers))
    assert {each.what for each in found.differences} == {what}
    assert {each.turn for each in found.differences} == {2}
    assert len(found.differences) == found.num_completions
    first = RunReader(run).completions(2)[0]
    assert (found.differences[0].draw, found.differences[0].completion) == (first["draw"], 1)
    assert f"completion 1, turn 2: {what}\n  recorded  " in str(found)
    assert "ZeroDivisionError" in str(found) or what != "failure"


def test_an_environment_that_exits_is_a_failure(run):
    class Exits(Dice):
        def step(self, reply: Reply) -> Any:
            raise SystemExit(3)

    found = played(run, Exits)
    assert {(each.what, each.turn) for each in found.differences} == {("failure", 1)}
    assert "SystemExit: 3" in str(found)


def test_another_beginning_and_another_state_are_named(run):
    class Elsewhere(Dice):
        def reset(self, problem: Any, seed: int) -> Any:
            return super().reset(problem, seed + 1)

    class Hidden(Dice):
        @property
        def state(self) -> str:
            return f"{next(COUNTER)}"

    found = played(run, Elsewhere)
    assert {(each.what, each.turn) for each in found.differences} == {("beginning", 0)}
    assert "before the first turn: beginning" in str(found)
    assert {each.what for each in played(run, Hidden).differences} == {"state"}


def test_an_environment_that_is_random_by_itself_is_found_out(tmp_path):
    class Loose(Dice):
        """Its steps draw from a generator that no seed reaches."""

        async def step(self, reply: Reply) -> Observation:
            self.dice = random.SystemRandom()  # type: ignore[assignment]
            return await super().step(reply)

    trainer(tmp_path / "run", rewards=None, data=CHATS, rest={"environment": Loose}, **SETTINGS).train()
    found = played(tmp_path / "run", Loose)
    assert not found.is_equal
    assert "random.Random(seed)" in str(found)


def test_turns_that_ran_out_and_failed_completions(tmp_path):
    class Fragile(Dice):
        def reset(self, problem: Any, seed: int) -> Any:
            self.is_broken = next(COUNTER) % 4 == 0
            return super().reset(problem, seed)

        async def step(self, reply: Reply) -> Observation:
            if self.is_broken:
                raise RuntimeError("gone")
            return await super().step(reply)

    settings = {**SETTINGS, "max_turns": 2}
    trainer(tmp_path / "run", rewards=None, data=CHATS, rest={"environment": Fragile}, **settings).train()
    found = played(tmp_path / "run", Dice)
    assert found.is_equal
    assert found.num_failed > 0
    assert f"{found.num_failed} more had failed in the run and are left out." in str(found)


MINE = """
import itertools
from groupwise.environments import Observation
COUNTER = itertools.count()
class Mine:
    def __init__(self, worth=1.0):
        self.worth = worth
    def reset(self, problem, seed):
        return ' so'
    def step(self, reply):
        return Observation(reward=self.worth * len(reply.text))
    def close(self):
        pass
class Counting(Mine):
    def step(self, reply):
        return Observation(reward=float(next(COUNTER)) + self.worth)
"""


def command(capsys: Any, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *words])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture(scope="module")
def of_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from groupwise import GRPOTrainer
    from groupwise.config import load_recipe

    folder = tmp_path_factory.mktemp("recipe")
    (folder / "mine.py").write_text(MINE)
    environment = {"name": "mine.py:Mine", "worth": -2.0}
    path = write_recipe(folder / "r.yaml", model_folder(folder / "model"), rewards=None, environment=environment)
    recipe = load_recipe(path)
    GRPOTrainer.from_recipe(recipe, folder=recipe.folder).train()
    return Path(recipe.config.output_dir)


def test_the_command_reads_everything_from_the_run(of_recipe, capsys):
    code, out, err = command(capsys, str(of_recipe), "--step", "1")
    assert (code, err) == (0, "")
    assert out.startswith("step 1: ")
    assert "equal: " in out


def test_the_command_ends_with_one_where_something_differs(of_recipe, capsys):
    code, out, _ = command(capsys, str(of_recipe), "--set", "environment.worth=-3.0")
    assert code == 1
    assert "completion 1, turn 1: reward" in out
    code, out, _ = command(capsys, str(of_recipe), "--set", "environment.name=mine.py:Counting")
    assert code == 1


def test_mistakes_are_named(of_recipe, run, tmp_path, capsys):
    code, _, err = command(capsys, str(of_recipe), "--step", "9")
    assert code == 2
    assert "has no completions of step 9; it has those of steps 1" in " ".join(err.split())
    code, _, err = command(capsys, str(of_recipe), "--set", "environment.name=gone.py:Mine")
    assert code == 2
    assert "gone.py" in err
    code, _, err = command(capsys, str(run))
    assert code == 2
    assert "was started from Python" in err
    assert command(capsys, str(tmp_path / "nowhere"))[0] == 2
    plain = tmp_path / "plain"
    trainer(plain, data=CHATS, max_steps=1).train()
    code, _, err = command(capsys, str(plain))
    assert code == 2
    assert "was trained without an environment" in err


def test_data_that_has_changed_is_no_difference_of_the_environment(run):
    rows = [{**row, "level": 1} for row in CHATS]
    with pytest.raises(RunError, match=r"Row \d of the data is not the one that the run was trained on"):
        replay(run, environment=Dice, problems=rows[:0] or rows[:1])


def test_without_completions_there_is_nothing_to_play(run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "run.json").write_text((run / "run.json").read_text())
    (empty / "completions").mkdir()
    assert json.loads((empty / "run.json").read_text())["used"]["environment"] == "Dice"
    with pytest.raises(RunError, match="holds no completions yet"):
        replay(empty)
