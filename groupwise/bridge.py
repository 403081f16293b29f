"""The bridge between two turns: the tokens that nobody sampled, from the end of one turn to the start of the next.

History is never rendered again. What the policy sampled stands, and the chat template is read for what follows it: the
end of the assistant's message, what came back, the header of the next message. Contents are no part of that text:
tokens of control inside them (`<|im_end|>`) stay plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groupwise.chat import Tokenizer, apply_template, content_text, encode_prompt, render_chat
from groupwise.errors import ConfigError, DataError, shortened
from groupwise.types import Message, Prompt

_MARK = "qzxvkj"
"""A word that no template writes by itself."""
_SAID = f"{_MARK}said"
_CONTENT = re.compile(rf"(?P<left>\t|\\t|){_MARK}(?P<number>\d+)(?P<json>\\?)\"{_MARK}(?P<right>\t|\\t|)")
"""A content in a template's text: its tabs are gone where it is stripped, its quote is escaped where it is JSON."""
_CALL_ID = "callabcd1"
"""Mistral's templates want nine characters."""

TURN_FORMAT = "\n{observation}\n"


@dataclass(frozen=True)
class _Slot:
    """Where the template puts the content of one message, and what it does to it."""

    number: int
    is_json: bool
    strips_left: bool
    strips_right: bool

    def fill(self, content: str) -> str:
        content = content.lstrip() if self.strips_left else content
        content = content.rstrip() if self.strips_right else content
        return json.dumps(content, ensure_ascii=False)[1:-1] if self.is_json else content


@dataclass(frozen=True)
class _Scaffold:
    """What stands between two turns: the end of the first, then texts of the template and contents in turns."""

    close: str
    """What the template writes before the end token; the policy's own where it ended the turn by itself."""
    end: str
    """The end token as text; empty where the template ends a message without one."""
    parts: tuple[str | _Slot, ...]


@dataclass(frozen=True)
class Bridge:
    """Makes the given tokens that follow a turn."""

    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    is_chat: bool = True
    """Whether the prompts are messages."""
    turn_format: str = TURN_FORMAT
    """What follows a turn after a prompt of plain text; `{observation}` stands for what came back."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    _scaffolds: dict[tuple[tuple[str, str], ...], _Scaffold] = field(default_factory=dict, compare=False)

    def check(self, roles: Collection[str] = ("user",)) -> None:
        """Raise `ConfigError` where no next turn can be begun after a message of each of these roles."""
        if not self.is_chat:
            if self.turn_format.count("{observation}") != 1:
                raise ConfigError(f"turn_format is {self.turn_format!r}; it needs {{observation}} once.")
            return
        for role in roles:
            self._scaffold([{"role": role, "content": "", "name": "tool"}])

    def takes(self, role: str) -> bool:
        """Whether the chat template has a message of this role after the assistant's."""
        try:
            self.check((role,))
        except ConfigError:
            return False
        return True

    def given(self, messages: Sequence[Message], *, is_ended: bool) -> tuple[int, ...]:
        """The tokens from a turn to the next one, between which these messages come back.

        `is_ended`: the turn's last token ends it; else its end is given, too.

        Raises:
            ConfigError: the chat template cannot continue, see `check`.
        """
        messages = self._as_taken(messages)
        contents = [content_text(message.get("content")) for message in messages]
        if not self.is_chat:
            before, _, after = self.turn_format.partition("{observation}")
            return tuple(encode_parts(self.tokenizer, [(before, True), ("\n".join(contents), False), (after, True)]))
        scaffold = self._scaffold(messages)
        ids = encode_parts(self.tokenizer, [(scaffold.end, True), *_filled(scaffold.parts, contents)])
        if not is_ended:
            ids = [*encode_parts(self.tokenizer, [(scaffold.close, True)]), *ids]
        return tuple(ids[1:] if scaffold.end and is_ended else ids)

    def prompt_ids(self, prompt: Prompt, added: str | Sequence[Message], system_prompt: str | None) -> tuple[int, ...]:
        """Ids of a prompt with text at the end of its last message, or messages behind it; both are contents.

        Raises:
            ConfigError, DataError: the chat template refuses it.
        """
        contents = [added] if isinstance(added, str) else [content_text(message.get("content")) for message in added]
        if isinstance(prompt, str):
            ids = encode_prompt(self.tokenizer, prompt, system_prompt=system_prompt)
            return (*ids, *encode_parts(self.tokenizer, [("".join(contents), False)]))
        if isinstance(added, str):
            chat = [*prompt[:-1], {**prompt[-1], "content": content_text(prompt[-1]["content"]) + _mark(0)}]
        else:
            chat = [*prompt, *({**message, "content": _mark(number)} for number, message in enumerate(added))]
        text = render_chat(self.tokenizer, chat, system_prompt=system_prompt, chat_template_kwargs=self.template_kwargs)
        return tuple(encode_parts(self.tokenizer, _filled(_slots(text, 0, len(contents)), contents)))

    def _as_taken(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, with one of the user for the results of tools where the template has no role for them."""
        if not self.is_chat or all(m["role"] != "tool" for m in messages) or self.takes("tool"):
            return messages
        text = "\n".join(content_text(message.get("content")) for message in messages)
        return [{"role": "user", "content": text}]

    def _scaffold(self, messages: Sequence[Message]) -> _Scaffold:
        key = tuple((message["role"], str(message.get("name", ""))) for message in messages)
        if key not in self._scaffolds:
            short, long = (self._after(before, messages) for before in self._contexts())
            if short != long:
                raise ConfigError(
                    "The chat template writes different texts between two turns, depending on what stands before "
                    f"them, so an environment cannot continue a completion: {shortened(repr(short), 200)} after a "
                    f"short chat, {shortened(repr(long), 200)} after a longer one. Give a chat template that does not "
                    "change what it has written (chat_template of the tokenizer)."
                )
            self._scaffolds[key] = self._read(short, messages)
        return self._scaffolds[key]

    def _contexts(self) -> tuple[list[list[Message]], list[list[Message]]]:
        """Chats before the assistant's message: for each of two lengths, the first that the template takes counts."""
        asked, answered = {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}
        return [[], [asked]], [[asked, answered, asked]]

    def _after(self, contexts: Sequence[list[Message]], messages: Sequence[Message]) -> str:
        """The template's text from the end of what the assistant said."""
        options = {**{k: v for k, v in self.template_kwargs.items() if k != "tools"}, "add_generation_prompt": True}
        new = [{**message, "content": _mark(number), **_id_of(message)} for number, message in enumerate(messages)]
        refusal: DataError | None = None
        for context in contexts:
            try:
                text = apply_template(self.tokenizer, [*context, _assistant(messages), *new], options)
            except DataError as error:
                refusal = error
                continue
            return text.rpartition(_SAID)[2]
        raise ConfigError(f"An environment's answer has no place in this model's chat template. {refusal}") from refusal

    def _read(self, after: str, messages: Sequence[Message]) -> _Scaffold:
        start, end = self._end(after)
        close = "" if _results(messages) else after[: start - len(end)]
        return _Scaffold(close if end else "", end, _slots(after, start, len(messages)))

    def _end(self, after: str) -> tuple[int, str]:
        """Where the assistant's end token ends in the text, and its text; (0, "") where there is none."""
        first_content = _CONTENT.search(after)
        before = after[: first_content.start()] if first_content else after
        texts = [self.tokenizer.decode([token_id], skip_special_tokens=False) for token_id in self.stop_ids]
        places = [(before.index(text), text) for text in texts if text and text in before]
        place, text = min(places, default=(0, ""))
        if not text:  # what a call leaves of its line is no part of what follows
            return max(before.find("\n"), 0), ""
        return place + len(text), text


def _mark(number: int) -> str:
    """Stands for the content of message `number`."""
    return f'\t{_MARK}{number}"{_MARK}\t'


def _slots(text: str, start: int, count: int) -> tuple[str | _Slot, ...]:
    """The text of a template from `start` on, in parts: its own and the places of `count` contents."""
    found = list(_CONTENT.finditer(text))
    if [int(match["number"]) for match in found] != list(range(count)):
        raise ConfigError(
            "The chat template leaves out, or moves, what an environment answers; it writes "
            f"{shortened(repr(text), 300)}. Answer with the role user, or give a chat template that takes these roles."
        )
    parts: list[str | _Slot] = []
    for match in found:
        slot = _Slot(int(match["number"]), bool(match["json"]), not match["left"], not match["right"])
        parts += [text[start : match.start()], slot]
        start = match.end()
    return (*parts, text[start:])


def _filled(parts: Sequence[str | _Slot], contents: Sequence[str]) -> list[tuple[str, bool]]:
    """The parts as texts, each with whether it is the template's."""
    return [(p, True) if isinstance(p, str) else (p.fill(contents[p.number]), False) for p in parts]


def encode_parts(tokenizer: Tokenizer, parts: Sequence[tuple[str, bool]]) -> list[int]:
    """Ids of a text in parts: (text, whether its tokens of control are such, or plain text).

    Where no content has any, the text is encoded as a whole, as a chat is elsewhere.
    """
    control = control_texts(tokenizer)
    if all(is_scaffold or not control.search(text) for text, is_scaffold in parts):
        return tokenizer.encode("".join(text for text, _ in parts), add_special_tokens=False)
    joined = _joined(parts, control)
    pieces = [piece for text, is_whole in joined for piece in ([text] if is_whole else _broken(text, control))]
    return [token_id for piece in pieces if piece for token_id in _encode_piece(tokenizer, piece)]


def _joined(parts: Sequence[tuple[str, bool]], control: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """The parts, with contents that have nothing to break joined to what stands around them."""
    text = ""
    for part, is_scaffold in parts:
        if is_scaffold or not control.search(part):
            text += part
        else:
            yield text, True
            yield part, False
            text = ""
    yield text, True


def _broken(text: str, control: re.Pattern[str]) -> list[str]:
    """The text in pieces, none of which holds a token of control."""
    pieces, start = [], 0
    for match in control.finditer(text):
        pieces.append(text[start : match.start() + 1])
        start = match.start() + 1
    return [*pieces, text[start:]]


def _encode_piece(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that begins inside of another: without the space that some tokenizers put before a text."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.decode(ids, skip_special_tokens=False) == text:
        return ids
    before = tokenizer.encode("\n", add_special_tokens=False)
    longer = tokenizer.encode("\n" + text, add_special_tokens=False)
    return longer[len(before) :] if longer[: len(before)] == before else ids


def control_texts(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Finds the tokens that no spelling makes: every added token, special or not."""
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    texts = sorted((str(token) for token in added.values() if len(str(token)) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")


def _assistant(messages: Sequence[Message]) -> Message:
    """What the policy said, in a word; with the calls that these messages are the results of."""
    said: Message = {"role": "assistant", "content": _SAID}
    names = [str(message.get("name", "tool")) for message in _results(messages)]
    if not names:
        return said
    calls = [
        {"id": _CALL_ID, "type": "function", "function": {"name": name, "arguments": {"text": _SAID}}} for name in names
    ]
    return {**said, "tool_calls": calls}


def _results(messages: Sequence[Message]) -> list[Message]:
    """Those of them that are results of calls."""
    return [message for message in messages if message["role"] == "tool"]


def _id_of(message: Message) -> dict[str, str]:
    return {"tool_call_id": _CALL_ID} if message["role"] == "tool" else {}
