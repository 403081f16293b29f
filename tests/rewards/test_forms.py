"""Rewards of form: tags, R1's format, language, consistency, repetition, length, steps, regex, JSON, ROUGE."""

from __future__ import annotations

import json
import math
import sys

import pytest

from groupwise.errors import ConfigError
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.shipped import SHIPPED

from .groups import CHAT, make_group

RIGHT = "<think>6 * 7 = 42</think>\n<answer>42</answer>"


def score(spec, *texts, prompt="p", **columns):
    group = RewardScorer(resolve_rewards([spec])).score([make_group(prompt, list(texts), **columns)]).groups[0]
    return group.reward[0] if len(texts) == 1 else group.reward


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT, 1),
        ("<answer>42</answer><think>late</think>", 1),
        ("<answer>42</answer>", 0.5),
        ("<think>hm <think>hm</think><answer>4", 0.5),
        ("<answer>1</answer><answer>2</answer>" * 50, 0),
        ("<Think>42</Think>", 0),
        ("", 0),
    ],
)
def test_tag_count_counts_tags_that_stand_once(text, expected):
    assert score("tag_count", text) == expected
    assert score("tag_count", text, prompt=CHAT) == expected


@pytest.mark.parametrize(
    ("text", "expected", "in_prompt"),
    [
        (RIGHT, 1, 1),
        ("<think>\nLet me see.\n6 * 7 = 42.\n</think>\n\n<answer>\n42\n</answer>\n", 1, 1),
        ("Let me see. 6 * 7 = 42.</think><answer>42</answer>", 0, 1),
        (f"Sure! {RIGHT}", 0, 0),
        (f"{RIGHT} I hope this helps!", 0, 0),
        ("<think></think><answer></answer>", 0, 0),
        ("<think> </think><answer>42</answer>", 0, 0),
        ("<think>a</think>b<answer>42</answer>", 0, 0),
        ("<think>a<answer>b</think><answer>c</answer>", 0, 0),
        (RIGHT * 2, 0, 0),
        ("<think>6 * 7 = 42</think><answer>42", 0, 0),
        ("<think>6 * 7", 0, 0),
        ("42", 0, 0),
    ],
)
def test_r1_format(text, expected, in_prompt):
    assert score("r1_format", text) == expected
    assert score({"name": "r1_format", "think_in_prompt": True}, text) == in_prompt


@pytest.mark.parametrize(
    ("script", "text", "low", "high"),
    [
        ("latin", "Let me compute: 6 * 7 = 42.", 1, 1),
        ("latin", "Wir müssen 6 mal 7 rechnen, voilà.", 1, 1),
        ("latin", "First, 我们 need to 计算 6 * 7.", 0.6, 0.8),
        ("latin", "我们需要计算六乘七。", 0, 0),
        ("chinese", "我们需要计算六乘七。", 1, 1),
        ("chinese", r"设 $x = 6 \times 7$，则 \boxed{42}。", 1, 1),
        ("chinese", "代码如下：\n```python\nprint(6 * 7)\n```", 1, 1),
        ("chinese", "<think>我们算一下</think>", 1, 1),
        ("japanese", "これを計算します。", 1, 1),
        ("chinese", "これを計算します。", 0.1, 0.4),
        ("cyrillic", "Ответ: сорок два", 1, 1),
        ("korean", "답은 사십이입니다", 1, 1),
        ("greek", "Η απάντηση is 42", 0.8, 0.9),
    ],
)
def test_language_is_the_share_of_letters_in_the_script(script, text, low, high):
    assert low <= score({"name": "language", "script": script}, text) <= high


def test_language_follows_the_prompt_and_scores_letters_only():
    spec = {"name": "language", "script": "prompt"}
    assert score(spec, "我们算。", prompt="六乘七是多少？") == 1
    assert score(spec, "It is 42.", prompt="六乘七是多少？") == 0
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "これを計算してください"}]
    assert score(spec, "計算すると四十二です", prompt=chat) == 1
    assert score(spec, "It is 42.", prompt=chat) == 0
    assert score("language", "42") is None
    assert score(spec, "It is 42.", prompt="6 * 7 = ?") is None
    assert score({"name": "language", "tag": "think"}, "<think>hm 好</think> 我们") == pytest.approx(2 / 3)
    assert score({"name": "language", "tag": "think"}, "hm") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # agreeing
        (RIGHT, 1),
        ("<think>3 apples and 4 apples are 7 apples.</think><answer>7 apples</answer>", 1),
        ("<think>First 48/2 = 24. Then 48 + 24 = 72.</think><answer>72.0</answer>", 1),
        ("<think>So the answer is 7. Let me check again: all fine.</think><answer>7</answer>", 1),
        ("<think>The total is 7, since 3 and 4 were given.</think><answer>7</answer>", 1),
        (r"<think>Therefore $\boxed{7}$, using 2 steps.</think><answer>7</answer>", 1),
        ("We add 3 and 4 and get 7.\n<answer>7</answer>", 1),
        ("<think>half of it, 1/2</think><answer>0.5</answer>", 1),
        ("<think>It rains in Spain. So it must be Madrid.</think><answer>Madrid</answer>", 1),
        # right or wrong does not matter
        ("<think>6 * 7 = 44</think><answer>44</answer>", 1),
        # contradicting
        ("<think>6 * 7 = 42</think><answer>41</answer>", 0),
        ("<think>So the answer is 7.</think><answer>-7</answer>", 0),
        ("<think>It rains in Spain. So it must be Madrid.</think><answer>Lisbon</answer>", 0),
        # no reasoning, no answer
        ("<answer>42</answer>", 0),
        ("<think></think><answer>42</answer>", 0),
        ("<think>  \n</think><answer>42</answer>", 0),
        ("<think>6 * 7 = 42</think>", 0),
        ("<think>6 * 7 = 42</think><answer></answer>", 0),
        ("<think>I just know it.</think><answer>42</answer>", 0),
        ("", 0),
        # a buried value: it is in the reasoning, which ends in another one
        ("<think>It could be 42. But no, 6 * 7 = 43.</think><answer>42</answer>", 0),
        ("<think>42 41 40 39</think><answer>42</answer>", 0),
        ("<think>Perhaps Lisbon. But it rains in Spain, so Madrid.</think><answer>Lisbon</answer>", 0),
        ("<think>Perhaps Lisbon.\nIt rains in Spain, so Madrid.</think><answer>Lisbon</answer>", 0),
        # stuffing the answer
        ("<think>6 * 7 = 42</think><answer>40 41 42</answer>", 0),
    ],
)
def test_answer_consistency(text, expected):
    assert score("answer_consistency", text) == expected


def test_answer_consistency_takes_other_tags():
    spec = {"name": "answer_consistency", "answer_tag": "final", "reasoning_tag": "work", "tolerance": 0.5}
    assert score(spec, "<work>about 3.4</work><final>3</final>") == 1
    assert score(spec, "<work>about 3.6</work><final>3</final>") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat sat on the mat and then it slept", 0),
        ("two words", 0),
        ("", 0),
        ("a b c a b c", -1 / 4),
        ("I am I am I am I am I am I am", -8 / 10),
        ("The Answer is the answer is the ANSWER is", -4 / 7),
        ("哈" * 20, -17 / 18),
    ],
)
def test_repetition_is_the_share_of_ngrams_that_were_there_before(text, expected):
    assert score("repetition", text) == pytest.approx(expected)
    assert score({"name": "repetition", "penalty": -0.5}, text) == pytest.approx(expected / 2)


def test_cosine_length_goes_from_start_to_end():
    """The formula's values at a quarter, a half and three quarters of the way, worked out by hand."""
    spec = {"name": "cosine_length", "max_length": 8, "unit": "words"}
    texts = ["", "a b", "a b c d", "a b c d e f", "a b c d e f g h", "a b c d e f g h i"]
    half = math.sqrt(0.5)
    assert score(spec, *texts) == pytest.approx((2, 1.5 + half / 2, 1.5, 1.5 - half / 2, 1, 1))
    wrong = {**spec, "start": -10, "end": 0, "exceed": -10}
    assert score(wrong, *texts) == pytest.approx((-10, -5 - 5 * half, -5, -5 + 5 * half, -10, -10))
    tokens = {"name": "cosine_length", "max_length": 4}
    assert score(tokens, "a") == pytest.approx(1.5)  # one word and the end token: half way


def test_the_two_halves_of_the_paper_are_two_gated_rewards():
    length = {"name": "cosine_length", "max_length": 8, "unit": "words"}
    rewards = [
        {"name": "number", "weight": 0},
        {**length, "when": {"number": 1}},
        {**length, "start": -10, "end": 0, "exceed": -10, "unless": {"number": 1}},
    ]
    group = make_group("p", ["7", "7 " * 8, "8", "8 or so it seems"], answer=7)
    reward = RewardScorer(resolve_rewards(rewards)).score([group]).groups[0].reward
    assert reward[0] > reward[1] == 1 > reward[3] > reward[2]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Step 1: add.\nStep 2: divide.\n**Step 3:** done", 3),
        ("First, add 3. Next, divide by 2. Finally, round.", 3),
        ("1. add\n2. divide\n3) round", 3),
        ("- add\n* divide", 2),
        ("Then I saw the first of 3 steps.", 1),
        ("The answer is 1.5. It was the next in line.", 0),
        ("-5 and -6", 0),
        ("", 0),
    ],
)
def test_reasoning_steps_counts_markers(text, count):
    assert score({"name": "reasoning_steps", "wanted": 3}, text) == pytest.approx(min(count / 3, 1))


def test_reasoning_steps_stops_at_the_wanted_number_and_looks_into_a_tag():
    assert score({"name": "reasoning_steps", "wanted": 2}, "- a\n- b\n- c\n- d") == 1
    spec = {"name": "reasoning_steps", "wanted": 2, "tag": "think"}
    assert score(spec, "<think>- a</think>\n- b\n- c", "- a\n- b") == (0.5, 0)


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"pattern": r"\d{3}-\d{4}"}, "Call 555-1234 now", 1),
        ({"pattern": r"\d{3}-\d{4}"}, "Call me", 0),
        ({"pattern": r"\d{3}-\d{4}", "match": "whole"}, " 555-1234\n", 1),
        ({"pattern": r"\d{3}-\d{4}", "match": "whole"}, "Call 555-1234", 0),
        ({"pattern": "yes", "ignore_case": True}, "YES.", 1),
        ({"pattern": "as an AI", "ignore_case": True, "absent": True}, "As an ai, I", 0),
        ({"pattern": "as an AI", "absent": True}, "42", 1),
        ({"pattern": "^b$"}, "a\nb\nc", 1),
        ({"pattern": "a.c"}, "a\nc", 1),
    ],
)
def test_regex(settings, text, expected):
    assert score({"name": "regex", **settings}, text) == expected


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("where", "text", "expected"),
    [
        ("whole", '{"name": "Ada", "age": 36}', 1),
        ("whole", '\n {"name": "Ada", "age": 36}\n', 1),
        ("whole", '{"name": "Ada", "age": "36"}', 0.2),
        ("whole", '{"name": "Ada", "age": -1}', 0.2),
        ("whole", '{"name": "Ada"}', 0.2),
        ("whole", '{"name": "Ada", "age": 36, "extra": 1}', 0.2),
        ("whole", "42", 0.2),
        ("whole", "{'name': 'Ada', 'age': 36}", 0),
        ("whole", '{"name": "Ada", "age": 36', 0),
        ("whole", '{"name": "Ada", "age": NaN}', 0),
        ("whole", 'Sure! {"name": "Ada", "age": 36}', 0),
        ("whole", '```json\n{"name": "Ada", "age": 36}\n```', 0),
        ("whole", "", 0),
        ("whole", "[" * 100_000, 0),
        ("fence", 'Sure!\n```json\n{"name": "Ada", "age": 36}\n```\nBye', 1),
        ("fence", '```\n{"name": "Ada", "age": 36}\n```', 1),
        ("fence", '{"name": "Ada", "age": 36}', 0),
        ("fence", "```json\n1\n```\n" * 2, 0),
        ("tag", '<answer>{"name": "Ada", "age": 36}</answer>', 1),
        ("tag", '{"name": "Ada", "age": 36}', 0),
    ],
)
def test_json_schema(where, text, expected):
    spec = {"name": "json_schema", "schema": PERSON, "where": where, "valid_json": 0.2}
    assert score(spec, text) == expected


def test_a_json_schema_is_read_from_a_file_and_fetches_nothing(tmp_path):
    file = tmp_path / "person.json"
    file.write_text(json.dumps(PERSON))
    assert score({"name": "json_schema", "schema": str(file)}, '{"name": "Ada", "age": 36}') == 1
    for schema, message in (
        (str(tmp_path / "none.json"), "there is no file"),
        ({"type": "objct"}, r"the schema is no JSON schema: \$.type"),
        (3, "schema is 3; give a mapping"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve_rewards([{"name": "json_schema", "schema": schema}])


def test_rouge_against_figures_of_the_definition():
    """Four of the reference's six words are among the completion's five, in order; two pairs of five stand together."""
    reference, text = "the cat sat on the mat", "a cat sat on mats"
    by_hand = {
        ("rouge1", "fmeasure"): 2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6),
        ("rouge1", "precision"): 4 / 5,
        ("rouge1", "recall"): 4 / 6,
        ("rouge2", "recall"): 2 / 5,
        ("rougeL", "recall"): 4 / 6,
    }
    for (variant, measure), expected in by_hand.items():
        spec = {"name": "rouge", "variant": variant, "measure": measure}
        assert score(spec, text, summary=reference) == pytest.approx(expected), (variant, measure)
    assert (
        score({"name": "rouge", "variant": "rouge1", "measure": "recall", "stem": False}, text, summary=reference)
        == 0.5
    )
    assert score("rouge", text, summary=["nothing alike here", reference]) == score("rouge", text, summary=reference)
    assert score("rouge", text, summary=None) is None
    assert score("rouge", "", summary=reference) == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "tag_count", "tags": []}, "give at least one"),
        ({"name": "tag_count", "tags": ["<a>"]}, "tags are \\['<a>'\\]"),
        ({"name": "repetition", "ngram": 0}, "ngram is 0"),
        ({"name": "repetition", "penalty": 1}, "penalty is 1; give a number, at most 0"),
        ("cosine_length", "Reward cosine_length needs max_length"),
        ({"name": "cosine_length", "max_length": 5, "exceed": "x"}, "exceed is 'x'"),
        ({"name": "cosine_length", "max_length": 5, "unit": "token"}, 'Did you mean "tokens"'),
        ("regex", "Reward regex needs pattern"),
        ({"name": "regex", "pattern": "("}, "pattern is '\\('"),
        ({"name": "regex", "pattern": 3}, "pattern is 3"),
        ({"name": "json_schema", "schema": {}, "where": "block"}, "where is 'block'"),
        ({"name": "rouge", "variant": "rougel"}, 'Did you mean "rougeL"'),
        ({"name": "answer_consistency", "tolerance": -1}, "tolerance is -1"),
        ({"name": "language", "script": "russian"}, "script is 'russian'; known: latin"),
        ({"name": "language", "script": "latn"}, 'Did you mean "latin"'),
    ],
)
def test_settings_out_of_range_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        resolve_rewards([spec])


@pytest.mark.parametrize(("name", "package"), [("rouge", "rouge_score"), ("json_schema", "jsonschema")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(name, package, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    spec = {"name": name, **({"schema": {}} if name == "json_schema" else {})}
    with pytest.raises(ConfigError, match=rf"needs the package \"{package}.*groupwise\["):
        resolve_rewards([spec])


def test_every_reward_takes_chats_as_it_takes_text():
    needed = {"cosine_length": {"max_length": 9}, "regex": {"pattern": "4"}, "json_schema": {"schema": {}}}
    columns = {"answer": "4", "summary": "4"}
    for name in SHIPPED:
        if name in ("math", "code", "llm_judge"):  # they start workers or ask a server
            continue
        spec = {"name": name, **needed.get(name, {})}
        texts = ["<think>2 + 2 = 4</think><answer>4</answer>", "4", ""]
        answers = {**columns, "answer": 1} if name == "choice" else columns
        assert score(spec, *texts, **answers) == score(spec, *texts, prompt=CHAT, **answers), name
