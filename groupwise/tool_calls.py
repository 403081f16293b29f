"""Tools in a chat: how a prompt shows them, and how their calls are read from a turn.

A chat template that writes tools shows them itself, as long as the calls that it writes can be read back. Elsewhere a
text of groupwise's own describes them, in the system message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.chat import Tokenizer, apply_template, content_text
from groupwise.errors import DataError, shortened
from groupwise.types import Call, Message, Prompt

Schema = Mapping[str, Any]
"""A tool as chat templates take it: `{"type": "function", "function": {"name", "description", "parameters"}}`."""

_CALL = re.compile(r"<tool_call>(?P<call>.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"<function=(?P<name>[^>\n]+)>(?P<body>.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=(?P<name>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>", re.DOTALL)
_FORM = '{"name": ..., "arguments": {...}}'

_MARK = "qzxvkj"
"""A word that no template writes by itself."""
_PROBE: Schema = {
    "type": "function",
    "function": {
        "name": f"{_MARK}tool",
        "description": f"{_MARK}description",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": f"{_MARK}argument"}},
            "required": ["text"],
        },
    },
}


_SYSTEM: Message = {"role": "system", "content": f"{_MARK}system"}
_ASKED: Message = {"role": "user", "content": f"{_MARK}asked"}


@dataclass(frozen=True)
class ToolChat:
    """How the chats of one tokenizer show tools, and how their calls are read."""

    tokenizer: Tokenizer
    template_kwargs: Mapping[str, Any]
    is_native: bool
    """Whether the chat template shows them itself."""
    has_system: bool
    """Whether it has a place for a system message."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, template_kwargs: Mapping[str, Any]) -> ToolChat:
        """As the tokenizer's chat template writes tools, calls and system messages."""
        return cls(
            tokenizer,
            template_kwargs,
            _shows_tools(tokenizer, template_kwargs) and _writes_readable_calls(tokenizer, template_kwargs),
            f"{_MARK}system" in _rendered(tokenizer, [_SYSTEM, _ASKED], template_kwargs),
        )

    def prompt(
        self, prompt: Prompt, schemas: Sequence[Schema], system_prompt: str | None
    ) -> tuple[Prompt, Mapping[str, Any]]:
        """A prompt that shows these tools, and the arguments of its template; plain text has no place for them."""
        if not schemas or isinstance(prompt, str):
            return prompt, self.template_kwargs
        if self.is_native:
            return prompt, {**self.template_kwargs, "tools": [dict(schema) for schema in schemas]}
        return self._with_text(prompt, described(schemas), system_prompt), self.template_kwargs

    def calls(
        self, text: str, ids: Sequence[int], before: Sequence[int], schemas: Sequence[Schema]
    ) -> tuple[Call, ...]:
        """The calls in a turn of these ids after those of `before`; one that cannot be read has an `error`."""
        return _read_calls(self.tokenizer, text, list(ids), list(before), schemas)

    def _with_text(self, messages: list[Message], text: str, system_prompt: str | None) -> list[Message]:
        """The text at the end of the system message, or before the first message where there is no place for one."""
        if messages[0]["role"] == "system":
            first = {**messages[0], "content": f"{content_text(messages[0]['content'])}\n\n{text}"}
            return [first, *messages[1:]]
        if system_prompt is not None or self.has_system:
            return [{"role": "system", "content": f"{system_prompt}\n\n{text}" if system_prompt else text}, *messages]
        return [{**messages[0], "content": f"{text}\n\n{content_text(messages[0]['content'])}"}, *messages[1:]]


def described(schemas: Sequence[Schema]) -> str:
    """Tools and the form of a call in words, for a template that has none."""
    tools = "\n".join(json.dumps(_without_returns(schema["function"]), ensure_ascii=False) for schema in schemas)
    return (
        "You can call tools. Write a call as JSON between tags, then stop:\n"
        '<tool_call>{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}</tool_call>\n'
        "What the tool answers comes next, and then you go on. When you need no tool, answer without tags. "
        f"The tools are:\n{tools}"
    )


def parse_calls(text: str, schemas: Sequence[Schema] = ()) -> tuple[Call, ...]:
    """The calls in a turn, in their order: between `<tool_call>` tags, or JSON that is the whole text (Llama's form).

    Between the tags is JSON, or `<function=...>` with a `<parameter=...>` for each argument, whose type its schema has.
    """
    found = tuple(_read(match["call"].strip(), schemas) for match in _CALL.finditer(text))
    return found or _bare_call(text.strip().removeprefix("<|python_tag|>"))


def _without_returns(function: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in function.items() if key != "return"}


def _bare_call(text: str) -> tuple[Call, ...]:
    """The call that the whole text is, where it is one."""
    if not (text.startswith("{") and text.endswith("}")):
        return ()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return ()
    arguments = value.get("parameters", value.get("arguments"))
    is_call = isinstance(value.get("name"), str) and isinstance(arguments, dict)
    return (Call(value["name"], arguments),) if is_call else ()


def _read(written: str, schemas: Sequence[Schema]) -> Call:
    if function := _FUNCTION.match(written):
        return _read_parameters(function, schemas)
    try:
        value: Any = json.loads(written)
    except json.JSONDecodeError as error:
        return Call("", error=f"not JSON: {shortened(error.msg, 80)}. Write {_FORM}.")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Call("", error=f"no name. Write {_FORM}.")
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return Call(value["name"], error=f"arguments are no object. Write {_FORM}.")
    return Call(value["name"], arguments)


def _read_parameters(function: re.Match[str], schemas: Sequence[Schema]) -> Call:
    name = function["name"].strip()
    known: Mapping[str, Any] = next(
        (s["function"].get("parameters", {}) for s in schemas if s["function"]["name"] == name), {}
    )
    types = {key: schema.get("type") for key, schema in known.get("properties", {}).items()}
    values = {match["name"].strip(): match["value"] for match in _PARAMETER.finditer(function["body"])}
    return Call(name, {key: _typed(value, types.get(key, "string")) for key, value in values.items()})


def _typed(value: str, kind: Any) -> Any:
    """The text itself for an argument that may be text, else what it is as JSON, if it is any."""
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _read_calls(
    tokenizer: Any, text: str, said: str | list[int], before: str | list[int], schemas: Sequence[Schema]
) -> tuple[Call, ...]:
    """By the tokenizer's own template of responses where it has one; what that cannot read, as JSON."""
    if getattr(tokenizer, "response_template", None) is None:
        return parse_calls(text, schemas)
    try:
        message = tokenizer.parse_response(said, prefix=before, tools=list(schemas))
    except Exception:  # what the policy writes can be anything
        return parse_calls(text, schemas)
    functions = [call.get("function", call) for call in message.get("tool_calls") or ()]
    calls = tuple(Call(str(f.get("name")), f.get("arguments") or {}) for f in functions if isinstance(f, Mapping))
    return calls if calls and all(isinstance(call.arguments, Mapping) for call in calls) else parse_calls(text, schemas)


def _shows_tools(tokenizer: Tokenizer, template_kwargs: Mapping[str, Any]) -> bool:
    text = _rendered(tokenizer, [_ASKED], template_kwargs, tools=[_PROBE])
    return all(f"{_MARK}{part}" in text for part in ("tool", "description", "argument"))


def _writes_readable_calls(tokenizer: Tokenizer, template_kwargs: Mapping[str, Any]) -> bool:
    """Whether a call that the template writes is read as the call that it was."""
    name, arguments = _PROBE["function"]["name"], {"text": f"{_MARK}value"}
    function = {"name": name, "arguments": arguments}
    called: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "callabcd1", "type": "function", "function": function}],
    }
    before = _rendered(tokenizer, [_ASKED], template_kwargs, tools=[_PROBE], add_generation_prompt=True)
    whole = _rendered(tokenizer, [_ASKED, called], template_kwargs, tools=[_PROBE])
    asked: str = _ASKED["content"]
    said = whole.removeprefix(before) if before and whole.startswith(before) else whole.rpartition(asked)[2]
    (call, *others) = _read_calls(tokenizer, _without_control(tokenizer, said), said, before, [_PROBE]) or (Call(""),)
    return not others and (call.name, dict(call.arguments)) == (name, arguments)


def _without_control(tokenizer: Any, text: str) -> str:
    """The text as a turn is read: without the special tokens at its ends."""
    special = [str(t) for t in getattr(tokenizer, "added_tokens_decoder", {}).values() if getattr(t, "special", False)]
    for token in special:
        text = text.replace(token, "")
    return text.strip()


def _rendered(tokenizer: Tokenizer, messages: list[Message], template_kwargs: Mapping[str, Any], **options: Any) -> str:
    """The template's text; empty where it refuses the chat."""
    try:
        return apply_template(tokenizer, messages, {"add_generation_prompt": False, **template_kwargs, **options})
    except DataError:
        return ""
