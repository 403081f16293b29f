"""A prompt shows its tools as the chat template writes them, or in words; calls are read as they were written."""

from __future__ import annotations

import enum
import json
import logging
import re
from typing import Any, Literal

import pytest
from api_helpers import CHATS, ROWS, model_folder, trainer, write_recipe
from test_bridge import NAMES, template_of, tokenizer_of
from tiny import tiny_tokenizer

from groupwise.chat import apply_template
from groupwise.config import load_recipe
from groupwise.environments import Tool
from groupwise.environments.describe import as_tools, tool_of
from groupwise.errors import ConfigError
from groupwise.tool_calls import ToolChat, described, parse_calls
from groupwise.types import Call

ASKED = [{"role": "user", "content": "what is 3 x 4?"}]
TOOLS = (
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ CALL }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLS = {
    "json": '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}',
    "parameters": (
        "<function={{ call.function.name }}>\n{% for name in call.function.arguments %}<parameter={{ name }}>\n"
        "{{ call.function.arguments[name] }}\n</parameter>\n{% endfor %}</function>"
    ),
    "python": "{{ call.function.name }}({{ call.function.arguments }})",
}
NATIVE = (
    "qwen2_5",
    "qwen3",
    "qwen3_instruct_2507",
    "qwen3_5_think",
    "qwen3_5_nothink",
    "qwen3_6",
    "llama3_1",
    "llama3_2",
    "nemotron_3_nano",
)


def multiply(a: int, b: int) -> int:
    """
    Multiplies two numbers.

    Args:
        a: the first.
        b: the second.

    Returns:
        Their product.
    """
    return a * b


SCHEMA = tool_of(multiply).schema


def with_tools(form: str) -> Any:
    tokenizer = tokenizer_of("chatml")
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, eos_token="<|im_end|>")
    calls = CALLS[form].replace("{{", "{{ ").replace("}}", " }}")
    tokenizer.chat_template = TOOLS.replace("{{ CALL }}", calls)
    return tokenizer


def test_a_schema_is_that_of_transformers():
    from transformers.utils import get_json_schema

    assert tool_of(multiply).schema == get_json_schema(multiply)


@pytest.mark.parametrize("form", ["json", "parameters"])
def test_a_template_that_writes_tools_and_readable_calls_shows_them_itself(form):
    tokenizer = with_tools(form)
    chat = ToolChat.of(tokenizer, {})
    assert chat.is_native
    prompt, template_kwargs = chat.prompt(ASKED, [SCHEMA], None)
    assert prompt is ASKED
    options = {"add_generation_prompt": True}
    shown = apply_template(tokenizer, prompt, {**options, **template_kwargs})
    assert shown == tokenizer.apply_chat_template(ASKED, tools=[multiply], tokenize=False, **options)
    assert '"name": "multiply"' in shown


@pytest.mark.parametrize("name", NAMES)
def test_the_templates_of_real_models(name):
    """Those whose calls are read back show tools themselves; with a template of responses, all that write calls do."""
    tokenizer = tokenizer_of(name)
    assert ToolChat.of(tokenizer, {}).is_native == (name in NATIVE)
    text = described([SCHEMA])
    shown, template_kwargs = ToolChat.of(tokenizer, {}).prompt(ASKED, [SCHEMA], None)
    rendered = apply_template(tokenizer, shown, {"add_generation_prompt": True, **template_kwargs})
    assert (text in rendered) == (name not in NATIVE)
    assert "multiply" in rendered


@pytest.mark.parametrize("name", ["gptoss", "glm4moe", "lfm2_2_5", "qwen3", "llama3_1", "gemma4"])
def test_a_template_of_responses_reads_the_calls(name):
    template_of(name)  # skips without trl
    from trl.chat_template_utils import add_response_schema

    tokenizer = add_response_schema(tokenizer_of(name))
    chat = ToolChat.of(tokenizer, {})
    assert chat.is_native
    assert chat.calls("no call", tokenizer.encode("no call"), [], [SCHEMA]) == ()


@pytest.mark.parametrize("template", ["chatml", "alternating"])
@pytest.mark.parametrize(
    ("prompt", "system_prompt"),
    [(ASKED, None), (ASKED, "Be brief."), ([{"role": "system", "content": "Be brief."}, *ASKED], "Unused.")],
)
def test_elsewhere_they_are_in_the_system_message(template, prompt, system_prompt):
    chat = ToolChat.of(tokenizer_of(template), {})
    assert (chat.is_native, chat.has_system) == (False, template == "chatml")
    (first, *rest), template_kwargs = chat.prompt(prompt, [SCHEMA], system_prompt)
    text = described([SCHEMA])
    assert template_kwargs == {}
    if not chat.has_system and system_prompt is None:
        assert [first, *rest] == [{"role": "user", "content": f"{text}\n\nwhat is 3 x 4?"}]
    else:
        assert first == {"role": "system", "content": f"Be brief.\n\n{text}" if system_prompt else text}
        assert rest == ASKED
    assert chat.prompt(prompt, [], system_prompt)[0] is prompt
    assert chat.prompt("plain", [SCHEMA], None) == ("plain", {})


def test_a_template_whose_calls_nobody_reads_gets_the_words():
    assert not ToolChat.of(with_tools("python"), {}).is_native
    assert not ToolChat.of(tiny_tokenizer(chat=True), {}).is_native
    assert "Multiplies two numbers." in described([SCHEMA])
    assert '"return"' not in described([SCHEMA])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "multiply", "parameters": {"a": 3}}', (Call("multiply", {"a": 3}),)),
        ('<|python_tag|>{"name": "f", "arguments": {}}', (Call("f", {}),)),
        ('{"name": "f"}', ()),
        ('{"name": "f", "parameters": 3}', ()),
        ('{"name": broken}', ()),
        ('so {"name": "f", "parameters": {}}', ()),
        (
            "<tool_call>\n<function=multiply>\n<parameter=a>\n3\n</parameter>\n<parameter=b>\nfour\n</parameter>\n",
            (Call("multiply", {"a": 3, "b": "four"}),),
        ),
        ("<tool_call><function=f><parameter=x>3</parameter></function></tool_call>", (Call("f", {"x": "3"}),)),
    ],
)
def test_the_forms_of_calls(text, calls):
    assert parse_calls(text, [SCHEMA]) == calls


def test_what_a_response_template_cannot_read_is_read_as_json():
    class Reads:
        response_template = "{}"

        def parse_response(self, said: Any, prefix: Any, tools: Any) -> Any:
            return {"calls": {"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}, "none": {}}[said[0]]

    chat = ToolChat(Reads(), {}, True, True)
    assert chat.calls("", ["calls"], [], []) == (Call("f", {"x": 1}),)
    assert chat.calls('<tool_call>{"name": "g"}', ["none"], [], []) == (Call("g", {}),)
    assert chat.calls("<tool_call>{", ["raises"], [], [])[0].error


class Color(enum.Enum):
    red = "red"


def no_docstring(a: int) -> int:
    return a


def no_hint(a) -> int:
    """Does it.

    Args:
        a: a number.
    """
    return a


def odd_hint(a: Tool) -> int:
    """Does it.

    Args:
        a: a tool.
    """
    return 0


def not_described(a: int, b: Literal["x", "y"]) -> int:
    """Does it.

    Args:
        a: a number.
    """
    return a


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        (
            [no_docstring],
            r"Tool no_docstring \(.*test_tool_prompts.py, line \d+\): .*no docstring.* Google's style",
        ),
        ([no_hint], r"Tool no_hint .*missing a type hint.*A tool has a type hint for every argument"),
        ([odd_hint], r"Tool odd_hint .*type hint .*Tool.* to a JSON schema"),
        ([not_described], r"Tool not_described .*no description for the argument 'b'"),
        ([3], r"A tool is 3 \(int\); expected a function, or a groupwise.environments.Tool"),
        (["pyton"], 'There is no tool "pyton"; there is python, .* Did you mean "python"'),
        ([Color], "A tool is the class Color; expected a function"),
        (multiply, r"tools is .*; expected a list of functions: tools=\[f\]"),
        ([multiply, multiply], "There are two tools of the name multiply"),
    ],
)
def test_a_tool_that_does_not_describe_itself_is_refused(tmp_path, tools, words):
    with pytest.raises(ConfigError, match=re.compile(words, re.DOTALL)):
        trainer(tmp_path, data=CHATS, rest={"tools": tools})


def test_tools_are_named_in_one_place(tmp_path):
    with pytest.raises(ConfigError, match=r"chat_template_kwargs has tools, and the run has its own \(multiply\)"):
        trainer(tmp_path, data=CHATS, rest={"tools": [multiply]}, chat_template_kwargs={"tools": [dict(SCHEMA)]})

    class Own:
        def reset(self, problem: Any, seed: int) -> Any: ...
        def step(self, reply: Any) -> Any: ...
        def close(self) -> None: ...

    with pytest.raises(ConfigError, match="tools stand beside environment Own, which answers turns itself"):
        trainer(tmp_path, data=CHATS, rest={"tools": [multiply], "environment": Own})


def test_plain_prompts_have_no_place_for_them(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "groupwise"):
        made = trainer(tmp_path, data=ROWS, rest={"tools": [multiply]}, max_completion_length=6)
    assert "nothing tells the policy of its tools (multiply)" in caplog.text
    assert made.parts.problems[0].prompt_ids == tuple(tiny_tokenizer().encode("say one"))


def test_a_recipe_names_its_tools(tmp_path):
    base = model_folder(tmp_path / "model", max_position_embeddings=1024)
    (tmp_path / "mine.py").write_text(
        'def double(a: int) -> int:\n    """Doubles.\n\n    Args:\n        a: a number.\n    """\n    return 2 * a\n'
        'def silent(a: int) -> int:\n    """Does it."""\n'
    )
    rows = tmp_path / "chats.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    path = write_recipe(tmp_path / "r.yaml", base, data=str(rows), tools=["mine.py:double"], tool_timeout_s=7)
    recipe = load_recipe(path)
    assert type(recipe)(**recipe.resolved()) == recipe
    from groupwise import GRPOTrainer

    made = GRPOTrainer.from_recipe(recipe, folder=recipe.folder)
    made.train()
    (played, *_) = made.environments
    assert played.toolbox.timeout_s == 7
    assert [tool.__name__ for tool in made.tools] == ["double"]
    shown = tiny_tokenizer().decode(made.parts.problems[0].prompt_ids)
    assert "oubles." in shown  # without capitals

    for tool, words in (
        ("pythn", r'tools: there is no tool "pythn"; there is python, .* Did you mean "python"'),
        ("mine.py:missing", 'has no function "missing"'),
        ("mine.py:silent", "Tool silent .*no description for the argument 'a'"),
    ):
        path = write_recipe(tmp_path / "wrong.yaml", base, data=str(rows), tools=tool)
        with pytest.raises(ConfigError, match=re.compile(words, re.DOTALL)):
            GRPOTrainer.from_recipe((wrong := load_recipe(path)), folder=wrong.folder)


def test_a_list_of_tools_is_one_of_functions_and_tools():
    own = Tool("own", print)
    assert [tool.name for tool in as_tools([own, multiply])] == ["own", "multiply"]
    assert own.schema["function"]["parameters"] == {"type": "object", "properties": {}}
