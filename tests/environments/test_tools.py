"""Whatever is wrong with a call, the policy reads it in a sentence, and nothing else happens to the run."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from episodes import Recording, sampler
from tiny import EOS, tiny_tokenizer

from groupwise.data.order import Draw
from groupwise.environments.tools import Tool, Toolbox, ToolEnvironment
from groupwise.errors import DataError, RolloutError
from groupwise.tool_calls import parse_calls
from groupwise.train.step_metrics import turns
from groupwise.types import Call


def multiply(a: int, b: int) -> int:
    return a * b


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


def fail(code: int) -> None:
    raise RuntimeError(f"disk\n  {code} is full")


def toolbox(timeout_s: float = 5.0) -> Toolbox:
    return Toolbox([Tool(f.__name__, f) for f in (multiply, add, sleep, fail)], timeout_s)


def answer(call: Call, **settings: float) -> tuple[str, Call]:
    (message,), (ended,) = toolbox(**settings).run([call])
    assert message["role"] == "tool"
    return message["content"], ended


@pytest.mark.parametrize(("name", "result"), [("multiply", "6"), ("add", "5")])
def test_a_result_is_its_text(name, result):
    content, call = answer(Call(name, {"a": 2, "b": 3}))
    assert (content, call.error) == (result, None)
    assert call.seconds > 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (Call("multply", {"a": 1}), 'there is no tool "multply"; there is multiply, add, sleep and fail. Did you mean'),
        (Call("multiply", {"a": 1}), "multiply: missing a required argument: 'b'; it takes a, b."),
        (Call("multiply", {"a": 1, "b": 2, "c": 3}), "got an unexpected keyword argument 'c'; it takes a, b."),
        (Call("fail", {"code": 7}), "RuntimeError: disk 7 is full"),
        (parse_calls("<tool_call>{broken</tool_call>")[0], "not JSON: Expecting property name"),
        (parse_calls('<tool_call>{"arguments": {}}</tool_call>')[0], 'no name. Write {"name": ..., "arguments"'),
        (parse_calls('<tool_call>{"name": "add", "arguments": 3}')[0], "arguments are no object"),
    ],
)
def test_the_policy_reads_what_was_wrong(call, error):
    content, ended = answer(call)
    assert error in json.loads(content)["error"]
    assert "\n" not in json.loads(content)["error"]
    assert ended.error == json.loads(content)["error"]


def test_parts_of_a_message_are_read_as_their_texts():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    (message,), _ = Toolbox([Tool("parts", lambda: parts)]).run([Call("parts")])
    assert message["content"] == "one two"
    (message,), _ = Toolbox([Tool("rows", lambda: [1, 2])]).run([Call("rows")])
    assert message["content"] == "[1, 2]"
    with pytest.raises(DataError, match="of the kind image, and groupwise trains on text"):
        Toolbox([Tool("picture", lambda: [{"type": "image"}])]).run([Call("picture")])


def test_a_tool_that_takes_too_long():
    content, ended = answer(Call("sleep", {"seconds": 20}), timeout_s=0.1)
    assert json.loads(content) == {"error": "timed out after 0.1 s"}
    assert ended.error == "timed out after 0.1 s"


def test_three_timeouts_in_a_row_of_one_tool_end_the_run():
    tools, late = toolbox(timeout_s=0.05), [Call("sleep", {"seconds": 20})]
    tools.run(late)
    tools.run(late)
    tools.run([Call("sleep", {"seconds": 0}), Call("add", {"a": 1, "b": 1})])
    tools.run(late)
    tools.run([Call("add", {"a": 1, "b": 1})])
    tools.run(late)
    with pytest.raises(RolloutError, match=r"Tool sleep has not answered 3 times in a row, each time within 0.05 s"):
        tools.run(late)


def test_calls_are_read_in_their_order_and_text_around_them_is_left():
    text = 'So <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call> and <tool_call>\n{"name": "sub"}\n'
    assert parse_calls(text) == (Call("add", {"a": 1, "b": 2}), Call("sub", {}))
    assert parse_calls("none") == ()


def test_calls_of_one_turn_run_side_by_side():
    begin = time.perf_counter()
    messages, _ = toolbox().run([Call("sleep", {"seconds": 0.2}), Call("sleep", {"seconds": 0.2}), Call("add", {})])
    assert [message["content"] for message in messages[:2]] == ["awake", "awake"]
    assert time.perf_counter() - begin < 0.39


def test_an_episode_with_tools():
    """Turns with calls go on, one without is the last; results come back as messages of their tools."""
    tokenizer = tiny_tokenizer(chat=True)
    wanted = ["<tool_call>", "</tool_call>", '"', "{", "}", ":", "_"]
    tokenizer.add_tokens(wanted)
    first = '<tool_call>{"name": "multiply", "arguments": {"a": 3, "b": 4}}</tool_call>'
    first_ids = [*tokenizer.encode(first, add_special_tokens=False), EOS]

    def script(request, index):
        return first_ids if len(request.seed) < 5 else [*tokenizer.encode("it is 12"), EOS]

    made = sampler(Recording(script), lambda: ToolEnvironment(toolbox()), tokenizer=tokenizer)
    (group,) = made.sample([Draw(1, 0)], 2, 1)
    completion = group.completions[0]
    assert (completion.text, completion.stop_reason) == ("it is 12", "stop")
    said, result, last = completion.messages
    assert said["tool_calls"][0]["function"] == {"name": "multiply", "arguments": {"a": 3, "b": 4}}
    assert result == {"role": "tool", "name": "multiply", "content": "12"}
    assert "tool_calls" not in last
    assert "\nt/12\na/" in tokenizer.decode(completion.token_ids)
    assert completion.turns[0].calls[0].seconds > 0
    metrics = turns(list(group.completions))
    assert (metrics["tools/call_frequency"], metrics["tools/failure_frequency"]) == (1.0, 0.0)
