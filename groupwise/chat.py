"""Messages <-> text <-> token ids: templates, special tokens, truncation.

This is the only place where a prompt becomes ids and where ids become text again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from groupwise.errors import ConfigError, DataError, named, shortened
from groupwise.types import Message, Prompt, Sampling

_TAGS_AT_END = re.compile(r"(?:</?\w[\w-]*>\s*)+\Z")
OPENING = 100
"""Tokens, and characters, at the end of a prompt that are searched for tags."""

CompletionValue = str | list[Message]
"""What a reward function is given for one completion: text after a plain prompt, messages after a chat."""


_PROBE = "qzxvkj"
"""A word that no template writes by itself, without letters that one would change."""


class Tokenizer(Protocol):
    """The part of a `transformers` tokenizer that groupwise uses."""

    chat_template: Any
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(
        self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str: ...

    def apply_chat_template(self, conversation: list[Message], **kwargs: Any) -> Any: ...


def as_tokenizer(given: Any, argument: str) -> Any:
    """The tokenizer that an argument holds: itself, or that of a processor, under the processor's chat template.

    Raises:
        ConfigError: it holds neither; `argument` is its name.
    """
    if _is_tokenizer(given):
        return given
    tokenizer: Any = getattr(given, "tokenizer", None)
    if isinstance(given, type) or not _is_tokenizer(tokenizer):
        raise ConfigError(
            f"{argument} is {named(given)}; expected a tokenizer of transformers, or a processor that has one"
            f"{_way_to_one(given)}."
        )
    template = getattr(given, "chat_template", None)
    if template and template != tokenizer.chat_template:
        tokenizer = copy.deepcopy(tokenizer)  # the user's own keeps its template
        tokenizer.chat_template = template
    return tokenizer


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    system_prompt: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt: a chat through its template, plain text by the tokenizer's own special-token rule."""
    if isinstance(prompt, str):
        if system_prompt is not None:
            raise DataError(
                "system_prompt is set, but the prompts are plain text, which has no place for it. Give the prompts as "
                'messages ([{"role": "user", "content": ...}]), or write the text into the prompt.'
            )
        return _encode_text(tokenizer, prompt)
    text = render_chat(tokenizer, prompt, system_prompt=system_prompt, chat_template_kwargs=chat_template_kwargs)
    return _ids(tokenizer, text, add_special_tokens=False)  # the template writes its own BOS


def render_chat(
    tokenizer: Tokenizer,
    messages: list[Message],
    *,
    system_prompt: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The text of a chat up to where the assistant goes on writing.

    A final assistant message is continued, any other is followed by the generation prompt. `system_prompt` stands
    first unless the chat brings a system message of its own.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "The prompts are messages, but this model's tokenizer has no chat template. Use an instruction-tuned "
            "model, set tokenizer.chat_template, or give the prompts as plain text."
        )
    if system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system_prompt}, *messages]
    is_continued = messages[-1]["role"] == "assistant"
    options = {"add_generation_prompt": not is_continued, "continue_final_message": is_continued}
    return apply_template(tokenizer, messages, {**options, **(chat_template_kwargs or {})})


def opening(prompt: Prompt, text: str) -> str:
    """What a completion goes on from: the assistant's message that it continues, or the tags that `text` ends in.

    `text` is the prompt as the model sees it, or its end.
    """
    last = prompt[-1] if prompt and not isinstance(prompt, str) else {}
    if last.get("role") == "assistant":
        return content_text(last["content"])
    found = _TAGS_AT_END.search(text[-OPENING:])
    return found[0] if found else ""


def truncate_left(ids: Sequence[int], max_length: int | None) -> list[int]:
    """The last `max_length` ids: the end of a prompt holds its question."""
    assert max_length is None or max_length > 0, max_length
    return list(ids if max_length is None else ids[-max_length:])


def completion_decoder(tokenizer: Tokenizer, sampling: Sampling | None = None) -> Callable[[Sequence[int]], str]:
    """What turns the ids of a completion into its text, character for character (no clean-up of spaces).

    The text leaves out the tokens that end a completion, and padding and begin tokens that no stop text holds. Every
    other special token is text: a tag may be one.
    """
    sampling, special = sampling or Sampling(), _special_tokens(tokenizer)
    unused = (tokenizer.pad_token_id, tokenizer.bos_token_id)
    held = {token_id for text, token_id in special.items() if any(text in stop for stop in sampling.stop)}
    left_out = {*sampling.stop_ids, *stop_ids(tokenizer)} | ({*unused} & {*special.values()} - held)

    def decode(ids: Sequence[int]) -> str:
        return decode_completion(tokenizer, [i for i in ids if i not in left_out], skip_special_tokens=False)

    return decode


def decode_completion(tokenizer: Tokenizer, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
    """The text of ids: what `completion_decoder` makes of them, or every token."""
    if skip_special_tokens:
        return completion_decoder(tokenizer)(ids)
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def as_completion(prompt: Prompt, text: str) -> CompletionValue:
    """The completion in the form of its prompt: a string, or one assistant message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def completion_text(completion: CompletionValue) -> str:
    """The text of a completion in either form; the inverse of `as_completion`.

    Of several turns it is the last that the policy wrote: what came back between them is not the policy's.
    """
    if isinstance(completion, str):
        return completion
    said = [message for message in completion if message.get("role", "assistant") == "assistant"]
    return content_text(said[-1].get("content")) if said else ""


def content_text(content: Any) -> str:
    """The text of a message's content: of a list of parts, their texts one after another."""
    if isinstance(content, list):
        return "".join(map(_part_text, content))
    return "" if content is None else str(content)


def stop_ids(tokenizer: Tokenizer, generation_config: Any = None, stop: Sequence[str] = ()) -> tuple[int, ...]:
    """End tokens: those of the generation config, the tokenizer's own, and the stop texts that are special tokens.

    A stop text that closes a tag is no end token, because rewards read it: it stays a text.
    """
    configured = getattr(generation_config, "eos_token_id", None)
    ids = list(configured) if isinstance(configured, list | tuple) else [configured]
    special = _special_tokens(tokenizer) if stop else {}
    named = [special[text] for text in stop if text in special and not _closes_tag(text, special, tokenizer)]
    return tuple(dict.fromkeys(i for i in [*ids, tokenizer.eos_token_id, *named] if i is not None))


def _special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Text -> id of the tokens that no spelling makes; a role such as padding makes no ordinary token one."""
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return {str(token): token_id for token_id, token in added.items() if token.special}


def _closes_tag(text: str, special: Mapping[str, int], tokenizer: Tokenizer) -> bool:
    """Whether this is `</name>`, unless it closes the begin token, as `</s>` does."""
    opening = special.get(text.replace("</", "<", 1))
    return re.fullmatch(r"</[\w-]+>", text) is not None and (opening is None or opening != tokenizer.bos_token_id)


def turn_ends(tokenizer: Tokenizer, chat_template_kwargs: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Special tokens that the chat template writes after what the assistant said, text -> id, in their order.

    None where the template has no such token, or refuses this chat.
    """
    said = "It is four."
    chat = [{"role": "user", "content": "What is two and two?"}, {"role": "assistant", "content": said}]
    try:
        text = apply_template(tokenizer, chat, {**(chat_template_kwargs or {}), "add_generation_prompt": False})
        after = _ids(tokenizer, text.partition(said)[2], add_special_tokens=False)
    except DataError:
        return {}
    special = {token_id: token for token, token_id in _special_tokens(tokenizer).items()}
    return {special[token_id]: token_id for token_id in after if token_id in special}


def beyond_embedding(tokenizer: Tokenizer, token_id: int, num_embeddings: int) -> str:
    """What is wrong with an id that the model's embedding has no row for, and the way out."""
    token = decode_completion(tokenizer, [token_id], skip_special_tokens=False)
    return (
        f"the token {token!r} has id {token_id}, but the model's embedding has {num_embeddings} rows (ids 0 to "
        f"{num_embeddings - 1}). Take the model's own tokenizer, or make room for the tokens that were added to it: "
        "model.resize_token_embeddings(len(tokenizer))."
    )


def pad_id(tokenizer: Tokenizer) -> int:
    """An id to fill tensors with. A missing pad token is aliased: padding is masked by position, never by id."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    return 0


def _is_tokenizer(given: Any) -> bool:
    needed = ("encode", "decode", "apply_chat_template", "save_pretrained", "eos_token_id", "pad_token_id")
    return not isinstance(given, type) and all(hasattr(given, name) for name in needed)


def _way_to_one(given: Any) -> str:
    """How to make a tokenizer of what was given, where there is a way."""
    if isinstance(given, str) and given:
        return f": transformers.AutoTokenizer.from_pretrained({shortened(repr(given))})"
    is_backend = type(given).__module__.partition(".")[0] == "tokenizers"
    return ": transformers.PreTrainedTokenizerFast(tokenizer_object=...)" if is_backend else ""


def _encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """What the tokenizer puts before a text (BOS) stays, once; what it puts after it (EOS, SEP) goes."""
    bare = _ids(tokenizer, text, add_special_tokens=False)
    full = _ids(tokenizer, text)
    starts = [k for k in range(len(full) - len(bare) + 1) if full[k : k + len(bare)] == bare]
    ids = full[: starts[0] + len(bare)] if starts else full
    has_second_bos = len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id
    return ids[1:] if has_second_bos else ids


def apply_template(tokenizer: Tokenizer, messages: list[Message], options: dict[str, Any]) -> str:
    """The text that the chat template makes of the messages; parts of text are joined where it takes no parts."""
    messages = _as_the_template_takes(tokenizer, messages, options)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # a template is a program of its own, and fails like one
        roles = ", ".join(str(message["role"]) for message in messages)
        raise DataError(f"The chat template refused a prompt with the roles {shortened(roles)}: {error}") from error
    if not isinstance(text, str):
        raise DataError(f"The chat template gave a {type(text).__name__}, not text. Look at chat_template_kwargs.")
    return text


def _as_the_template_takes(tokenizer: Tokenizer, messages: list[Message], options: dict[str, Any]) -> list[Message]:
    """The messages with text for parts in every role of which the template takes text alone."""
    if not any(isinstance(message["content"], list) for message in messages):
        return messages
    as_text = [{**message, "content": _text_of(message)} for message in messages]
    taken: dict[str, bool] = {}
    found = []
    for number, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if isinstance(content, list) and role not in taken:
            taken[role] = _takes_parts(tokenizer, as_text, number, options)
        has_parts = isinstance(content, list) and taken[role]
        found.append({**message, "content": list(map(_as_part, content))} if has_parts else as_text[number])
    return found


def _takes_parts(tokenizer: Tokenizer, messages: list[Message], number: int, options: dict[str, Any]) -> bool:
    """Whether the template writes the text of a part at this message, and not the list as Python or JSON prints it."""
    asked = {**messages[number], "content": [{"type": "text", "text": _PROBE}]}
    try:
        text = tokenizer.apply_chat_template(
            [*messages[:number], asked, *messages[number + 1 :]], tokenize=False, **options
        )
    except Exception:  # a template that takes text alone fails in its own way
        return False
    return _PROBE in text and f"'{_PROBE}" not in text and f'"{_PROBE}' not in text


def _text_of(message: Message) -> Any:
    """The content of a message with its parts joined; a content that is no list stays."""
    return content_text(message["content"]) if isinstance(message["content"], list) else message["content"]


def _as_part(part: Any) -> Any:
    return {"type": "text", "text": part} if isinstance(part, str) else part


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(text, str):
        return text
    what = f"whose text is a {type(text).__name__}" if kind == "text" else f"of the kind {kind}"
    raise DataError(
        f"The content of a message has a part {what}, and groupwise trains on text. Leave such parts out; a part looks "
        'like {"type": "text", "text": "..."}.'
    )


def _ids(tokenizer: Tokenizer, text: str, **options: bool) -> list[int]:
    try:
        return tokenizer.encode(text, **options)
    except (TypeError, UnicodeEncodeError) as error:
        raise DataError(f"The tokenizer refused {shortened(text)!r}. Does it hold half a character?") from error
