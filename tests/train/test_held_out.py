"""Held-out completions in the run folder, and the log-prob of the data's own answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import CHATS, ROWS, trainer
from histories import StopAfter, history
from tiny import tiny_model, tiny_tokenizer

from groupwise.environments import Observation
from groupwise.errors import ConfigError, RewardError
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader

SETTINGS: dict[str, Any] = {"eval_steps": 2, "eval_on_start": True, "num_generations_eval": 3, "max_steps": 4}


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """A reward that reads the answers."""
    return [float(sum(map(ord, str(c) + a)) % 7) for c, a in zip(completions, answer, strict=True)]


def unread(completions: list[Any]) -> list[float]:
    """A reward that reads no column."""
    return [float(len(str(c)) % 3) for c in completions]


def run(
    folder: Path, *, rewards: Any = right, rest: Any = None, resume: bool = False, data: Any = ROWS, **settings: Any
) -> Any:
    rest = {"eval_dataset": ROWS[:2], **(rest or {})}
    made = trainer(folder, rewards=rewards, rest=rest, data=data, **{**SETTINGS, **settings})
    made.train(resume_from_checkpoint=resume or None)
    return made


def files(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "evaluations").iterdir())}


def test_every_evaluation_is_recorded_sampled_and_greedy(tmp_path: Path) -> None:
    run(tmp_path)
    reader = RunReader(tmp_path)
    assert reader.evaluation_steps() == [0, 2, 4]
    by_step = {record["step"]: record for record in history(tmp_path)}
    for step, metrics in ((0, by_step[1]), (2, by_step[2]), (4, by_step[4])):
        records = reader.evaluations(step)
        assert [(r["kind"], r["problem"]) for r in records] == [
            *(("sampled", 0), ("sampled", 1), ("greedy", 0), ("greedy", 1))
        ]
        assert [len(r["completions"]) for r in records] == [3, 3, 1, 1]
        for record, row in zip(records, [*ROWS[:2]] * 2, strict=True):
            assert (record["prompt"], record["answer"], record["policy_version"]) == (
                row["prompt"],
                row["answer"],
                step,
            )
            assert record["columns"] == {"answer": row["answer"]}
            assert "set" not in record
        rewards = [c["reward"] for r in records if r["kind"] == "sampled" for c in r["completions"]]
        assert sum(rewards) / 6 == pytest.approx(metrics["eval_reward"])
        greedy = [r["completions"][0]["reward"] for r in records if r["kind"] == "greedy"]
        assert sum(greedy) / 2 == pytest.approx(metrics["eval_greedy_reward"])
    keys = reader.completions(1)[0]["completions"][0].keys()
    assert reader.evaluations(0)[0]["completions"][0].keys() == keys, "one definition a key"


def test_a_resumed_run_has_the_same_evaluations(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "parts", rest={"callbacks": [StopAfter(3)]}, save_steps=1)
    run(tmp_path / "parts", resume=True, save_steps=1)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_an_evaluation_that_broke_off_leaves_no_file_and_is_made_up_for(tmp_path: Path) -> None:
    calls = 0

    def fragile(completions: list[Any], answer: list[str]) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 4:  # the evaluation at the start, sampled and greedy with a trial of one, then step 1
            raise ValueError("the server is gone")
        return right(completions, answer)

    fragile.__name__ = "right"
    settings = {"eval_on_start": False, "eval_steps": 1, "max_steps": 2, "eval_greedy": False}
    run(tmp_path / "whole", **settings)
    with pytest.raises(RewardError):
        run(tmp_path / "parts", rewards=fragile, **settings)
    assert RunFolder(tmp_path / "parts").evaluation_steps() == [1]
    run(tmp_path / "parts", rewards=fragile, resume=True, **settings)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_evaluations_later_than_the_checkpoint_are_cut(tmp_path: Path) -> None:
    run(tmp_path, save_steps=2)
    made = trainer(tmp_path, rewards=right, rest={"eval_dataset": ROWS[:2]}, **SETTINGS)
    made.train(resume_from_checkpoint=str(RunFolder(tmp_path).checkpoint_of(2)))
    assert RunFolder(tmp_path).evaluation_steps() == [0, 2, 4]
    RunReader(tmp_path).cut_after(1)
    assert RunFolder(tmp_path).evaluation_steps() == [0]


def test_several_sets_share_a_file_and_others_are_no_part_of_the_run(tmp_path: Path) -> None:
    made = run(tmp_path, rest={"eval_dataset": {"a": ROWS[:1], "b": ROWS[1:3]}}, max_steps=2)
    records = RunReader(tmp_path).evaluations(2)
    assert [(r["set"], r["kind"], r["problem"]) for r in records if r["kind"] == "greedy"] == [
        *(("a", "greedy", 0), ("b", "greedy", 0), ("b", "greedy", 1))
    ]
    before = files(tmp_path)
    made.evaluate(ROWS[3:])
    made.evaluate(metric_key_prefix="test")
    assert files(tmp_path) == before
    assert {"eval_a_gold_logprob", "eval_b_gold_logprob"} <= history(tmp_path)[1].keys()


# --- the log-prob of the data's own answers


@torch.no_grad()
def gold_logprob(model: Any, rows: Any, temperature: float, most: int) -> float:
    """By the model itself, one answer at a time."""
    tokenizer, means = tiny_tokenizer(chat=True), []
    for row in rows:
        prompt, answer = tokenizer.encode(row["prompt"]), tokenizer.encode(row["answer"])[:most]
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] / temperature
        means.append(logits.log_softmax(-1)[torch.arange(len(answer)), answer].mean())
    return float(torch.stack(means).mean())


def test_it_is_the_policys_log_prob_of_the_answer_after_the_prompt(tmp_path: Path) -> None:
    made = run(tmp_path, temperature=0.7, max_completion_length=4, learning_rate=3e-2)
    first, last = history(tmp_path)[0], history(tmp_path)[-1]
    assert first["eval_gold_logprob"] == pytest.approx(gold_logprob(tiny_model(), ROWS[:2], 0.7, 4), abs=1e-4)
    assert last["eval_gold_logprob"] == pytest.approx(gold_logprob(made.model, ROWS[:2], 0.7, 4), abs=1e-4)
    assert first["eval_gold_logprob"] != last["eval_gold_logprob"]


def test_rows_without_an_answer_are_left_out(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "answer": None}, ROWS[1]]
    made = trainer(tmp_path, rewards=unread_but_named, rest={"eval_dataset": rows}, **SETTINGS)
    assert made.evaluate()["eval_gold_logprob"] == pytest.approx(gold_logprob(made.model, ROWS[1:2], 1.0, 6), abs=1e-4)


def unread_but_named(completions: list[Any], answer: list[Any]) -> list[float]:
    return [float(len(str(c)) % 3) for c in completions]


def test_without_answers_there_is_none(tmp_path: Path) -> None:
    made = run(tmp_path, rewards=unread)
    assert "eval_gold_logprob" not in history(tmp_path)[0]
    assert all("answer" not in record for record in RunReader(tmp_path).evaluations(4))
    with pytest.raises(ConfigError, match="which no evaluation measures"):
        run(tmp_path / "best", rewards=unread, metric_for_best_model="gold_logprob")
    assert run(tmp_path / "known", metric_for_best_model="gold_logprob").state.best_metric is not None
    assert made.state.best_metric is not None


def test_where_an_environment_answers_no_answer_is_a_whole_completion(tmp_path: Path) -> None:
    class Once:
        def reset(self, problem: Any, seed: int) -> Any:
            return None

        async def step(self, reply: Any) -> Observation:
            return Observation(reward=float(len(reply.text)), done=True)

        def close(self) -> None: ...

    rest = {"environment": Once, "eval_dataset": CHATS[:2]}
    run(tmp_path, rewards=None, rest=rest, data=CHATS, max_steps=2)
    assert "eval_gold_logprob" not in history(tmp_path)[0]
    record = RunReader(tmp_path).evaluations(2)[0]
    assert record["environment"]["name"]
    assert record["completions"][0]["turns"]


def test_a_torn_last_line_is_not_there_yet(tmp_path: Path) -> None:
    run(tmp_path)
    path = RunFolder(tmp_path).evaluations_of(4)
    whole = path.read_text()
    path.write_text(whole[:-2])
    assert len(RunReader(tmp_path).evaluations(4)) == 3
    assert json.loads(whole.splitlines()[-1])["kind"] == "greedy"
