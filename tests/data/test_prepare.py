"""Prompts are encoded once, cut or left out as asked, and counted."""

from __future__ import annotations

from typing import Any

import pytest

from groupwise.data import Problems, prepare
from groupwise.errors import DataError
from groupwise.notes import shown_by

TEXTS = ["abc", "abcdefgh", "abcde", "abcdefghijkl"]


class CharacterTokenizer:
    """One id a character; a chat is its contents."""

    chat_template: Any = "{{ messages }}"
    bos_token_id = eos_token_id = pad_token_id = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text if c != "\u200b"]

    def decode(
        self, token_ids: Any, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        return "".join(map(chr, token_ids))

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        return "".join(f"{m['role'][0]}:{m['content']};" for m in conversation) + str(kwargs.get("ending", ""))


tokenizer = CharacterTokenizer()


def prepared_texts(prepared: Any) -> list[str]:
    return [tokenizer.decode(prepared[row].prompt_ids) for row in range(len(prepared))]


def problems(texts: list[Any] = TEXTS) -> Problems:
    return Problems([{"prompt": text, "number": i} for i, text in enumerate(texts)])


def test_prompts_within_the_limit_are_untouched() -> None:
    said: list[str] = []
    with shown_by(said.append):
        prepared = prepare(problems(), tokenizer, max_prompt_length=12)
    assert prepared_texts(prepared) == TEXTS
    assert (prepared.num_truncated, prepared.num_dropped, said) == (0, 0, [])
    assert prepared.max_prompt_tokens == 12


def test_no_limit_keeps_every_prompt_whole() -> None:
    assert prepared_texts(prepare(problems(), tokenizer)) == TEXTS


def test_overlong_prompts_lose_their_beginning() -> None:
    said: list[str] = []
    with shown_by(said.append):
        prepared = prepare(problems(), tokenizer, max_prompt_length=5)
    assert prepared_texts(prepared) == ["abc", "defgh", "abcde", "hijkl"]
    assert [prepared[row].is_truncated for row in range(4)] == [False, True, False, True]
    assert prepared.num_truncated == 2
    assert said == ["2 of 4 prompts are longer than 5 tokens and were cut from the left."]


def test_overlong_prompts_can_be_left_out() -> None:
    said: list[str] = []
    with shown_by(said.append):
        prepared = prepare(problems(), tokenizer, max_prompt_length=5, overlong="drop")
    assert prepared_texts(prepared) == ["abc", "abcde"]
    assert [(prepared[r].problem.index, prepared[r].problem.columns["number"]) for r in range(2)] == [(0, 0), (2, 2)]
    assert (prepared.num_truncated, prepared.num_dropped) == (0, 2)
    assert said == ["2 of 4 prompts are longer than 5 tokens and were left out."]


def test_leaving_out_every_prompt_is_an_error() -> None:
    with pytest.raises(DataError, match="All 4 prompts of data are longer than max_prompt_length = 2"):
        prepare(problems(), tokenizer, max_prompt_length=2, overlong="drop")


def test_system_prompt_and_template_options_are_encoded_but_not_in_the_problem() -> None:
    chat = [{"role": "user", "content": "hi"}]
    options = {"ending": "!"}
    prepared = prepare(problems([chat]), tokenizer, system_prompt="Rhyme.", chat_template_kwargs=options)
    assert prepared_texts(prepared) == ["s:Rhyme.;u:hi;!"]
    assert prepared[0].problem.prompt == chat


@pytest.mark.parametrize("name", ["tools", "chat_template_kwargs"])
def test_a_column_of_template_arguments_gets_a_note_that_names_the_field(name: str) -> None:
    chat = [{"role": "user", "content": "hi"}]
    rows = [{"prompt": chat, name: [{"name": "f"}]}, {"prompt": chat}]
    notes: list[str] = []
    with shown_by(notes.append):
        prepared = prepare(Problems(rows), tokenizer)
    assert [f'column "{name}"' in note and "chat_template_kwargs: {" in note for note in notes] == [True]
    assert prepared[0].problem.columns == {name: [{"name": "f"}]}
    with shown_by(notes.append):
        prepare(Problems(rows), tokenizer, chat_template_kwargs={"tools": []})
    assert len(notes) == (1 if name == "tools" else 2)
    with shown_by(notes.append):
        prepare(Problems(rows, columns={"mine": name}), tokenizer)
    assert len(notes) == (1 if name == "tools" else 2)


def test_a_row_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(DataError, match=r"Row 2 of data: .*plain text"):
        prepare(problems([[{"role": "user", "content": "hi"}], "text"]), tokenizer, system_prompt="Rhyme.")
    with pytest.raises(DataError, match="Row 1 of data: the prompt has no tokens"):
        prepare(problems(["\u200b"]), tokenizer)
