"""Rewards that look for tags see those that the prompt opened: by template, continued message or plain text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_chat import make_tokenizer

from groupwise.config import load_recipe
from groupwise.data import load_problems, prepare
from groupwise.data.order import Draw
from groupwise.errors import ConfigError
from groupwise.offline import score_file
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.runs.records import group_record
from groupwise.testing import score
from groupwise.train.sampler import PROBE, GroupSampler
from groupwise.types import Sampling, StepGroup

TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<assistant>"
USER = {"role": "user", "content": "What is 2 + 2? Write <think>, then </think>."}
REST = "2 + 2 = 4</think>\n<answer>4</answer>"
WHOLE = f"<think>{REST}"


def sampled(spec, text, ending="", prompt=None, **columns):
    """The reward of a completion of a chat whose template ends in `ending`, and its group."""
    tokenizer = make_tokenizer(template=TURNS + PROMPT + ending + "{% endif %}")
    problems = prepare(load_problems([{"prompt": [USER] if prompt is None else prompt, **columns}]), tokenizer)
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    engine = ScriptedEngine(lambda request, index: list(ids))
    sampler = GroupSampler(engine, problems, Sampling(), tokenizer.decode, seed=0)
    (group,) = sampler.sample([Draw(0, 0)], 1, PROBE)
    return RewardScorer(resolve_rewards([spec])).score([group]).groups[0]


def reward(*arguments, **settings):
    return sampled(*arguments, **settings).reward[0]


FORMATS = ["format", {"name": "format", "mode": "soft"}, "tag_count", "r1_format", "answer_consistency"]
OPEN = ["<think>", "<think>\n", "<think>\n\n", "<|turn|> <think>\n"]
SHUT = ["", "\n", "<think>\n\n</think>\n\n", "<|think|>", "Write <think>: "]


@pytest.mark.parametrize("spec", FORMATS, ids=str)
@pytest.mark.parametrize("ending", OPEN)
def test_what_a_template_opened_counts_as_written(spec, ending):
    assert reward(spec, REST, ending) == 1
    assert reward(spec, WHOLE, ending) == 1, "a completion may open the tag again"
    assert reward(spec, "4", ending) < 1


@pytest.mark.parametrize("spec", FORMATS[:4], ids=str)
@pytest.mark.parametrize("ending", SHUT)
def test_where_nothing_is_open_the_completion_writes_every_tag(spec, ending):
    assert reward(spec, WHOLE, ending) == 1
    assert reward(spec, REST, ending) < 1


@pytest.mark.parametrize(
    ("spec", "rest", "ending"),
    [
        ({"name": "format", "tags": ["reasoning", "answer"]}, "4</reasoning><answer>4</answer>", "<reasoning>\n"),
        ({"name": "format", "tags": ["plan", "think"]}, "b</think>", "<plan></plan>\n<think>"),
        ({"name": "format", "tags": "answer"}, "4</answer>", "<answer>"),
        ({"name": "tag_count", "tags": ["reasoning"]}, "4</reasoning>", "<reasoning>"),
        ({"name": "language", "tag": "think", "script": "latin"}, "so</think>", "<think>"),
        ({"name": "reasoning_steps", "tag": "think", "wanted": 1}, "Step 1: add</think>", "<think>\n"),
        ({"name": "exact_match", "tag": "answer"}, "4</answer>", "<answer>"),
        ({"name": "number", "place": "tag"}, "4</answer>", "<answer>"),
        ({"name": "choice", "column": "letter"}, "B</answer> (A)", "<answer>"),
        ({"name": "json_schema", "schema": {}, "where": "tag"}, "4</answer>", "<answer>"),
    ],
    ids=str,
)
def test_tags_of_ones_own_and_rewards_that_read_inside_one(spec, rest, ending):
    answers = {"answer": "4", "letter": "B"}
    begun = [USER, {"role": "assistant", "content": f"Let me see. {ending}"}]
    assert reward(spec, rest, ending, **answers) == 1
    assert reward(spec, rest, prompt=f"2 + 2?\n{ending}", **answers) == 1, "a plain prompt"
    assert reward(spec, rest, prompt=begun, **answers) == 1, "a message that the completion continues"
    assert reward(spec, rest, **answers) < 1, "nothing is open"


def test_a_continued_message_may_go_on_after_its_tag():
    begun = [USER, {"role": "assistant", "content": "Let me see. <think>2 + 2 is"}]
    assert reward("format", " 4</think><answer>4</answer>", prompt=begun) == 1
    begun = [USER, {"role": "assistant", "content": "<plan>Add.</plan>\n<think>"}]
    assert reward({"name": "format", "tags": ["plan", "think"]}, "4</think>", prompt=begun) == 1
    shut = [USER, {"role": "assistant", "content": "<think>It is 4.</think>"}]
    assert reward("format", WHOLE, prompt=shut) == 1


def test_a_plain_prompt_may_end_in_the_name_of_a_tag():
    assert reward("format", WHOLE, prompt="2 + 2? Think in <think>, answer in <answer>") == 1


def test_a_users_own_reward_gets_what_was_sampled():
    texts = []

    def look(completions):
        texts.extend(completion[0]["content"] for completion in completions)
        return [0.0] * len(completions)

    sampled(look, REST, "<think>\n")
    assert texts == [REST]


@pytest.mark.parametrize("name", ["format", "tag_count", "r1_format"])
def test_a_recipe_can_tell_by_itself_what_the_prompt_opened(name):
    assert score({"name": name, "think_in_prompt": True}, [REST, WHOLE]) == [1, 1]
    assert score(name, REST)[0] < 1, "no template is known here"
    assert score(name, REST, prompts="2 + 2?\n<think>\n") == [1]
    assert reward({"name": name, "think_in_prompt": True}, REST) == 1
    assert reward({"name": name, "think_in_prompt": False}, REST, "<think>") < 1
    with pytest.raises(ConfigError, match="think_in_prompt is 'yes'; give true, false, or null"):
        resolve_rewards([{"name": name, "think_in_prompt": "yes"}])


def test_tags_of_ones_own_can_be_told_to_be_open():
    spec = {"name": "format", "tags": ["reasoning", "answer"], "think_in_prompt": True}
    assert score(spec, "4</reasoning><answer>4</answer>") == [1]


def test_what_a_run_recorded_is_scored_again_as_it_was(tmp_path: Path):
    group = sampled("format", REST, "<think>\n")
    record = group_record(StepGroup.of_scored(group), 1)
    assert record["opening"] == "<assistant><think>\n"
    (tmp_path / "step.jsonl").write_text(json.dumps(record))
    (tmp_path / "recipe.yaml").write_text("model: x\ndata: python-docs\nrewards: [format]\n")
    scored, _ = score_file(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "step.jsonl")
    assert [each.reward for each in scored] == [group.reward[0]] == [1]


def test_a_prompt_that_opens_nothing_records_nothing():
    group = sampled("format", WHOLE, prompt="2 + 2?")
    assert "opening" not in group_record(StepGroup.of_scored(group), 1)
