"""The packaged passages are prose, fit in size, the same every time, and held out by topic."""

from __future__ import annotations

import platform
import re

import pytest

from groupwise.data import load_problems, python_docs
from groupwise.data.packaged import NAMES, is_packaged
from groupwise.data.python_docs import EVAL_TOPICS, MAX_CHARACTERS, MIN_CHARACTERS, passages
from groupwise.errors import DataError

DOCUMENT = """
Title of a document
*******************

The *first* paragraph is **plain** prose with a "name" in it and runs over two lines of ever-
so short text [1].  It ends here, for example:

   def code(x):
       return x ** 2

Too short.

* A bullet that says a whole sentence about *args and **kwargs and ends as one does.

+-------+-------+
| a     | table |
+-------+-------+

   rule ::= "grammar" ("is" | "not" | "prose") and so on and so forth.

Changed in version 3.5: This long note about versions is of no use to anybody at all.

>>> 1 + 1 is what one types at the prompt and not a sentence of prose at all.
"""


@pytest.fixture(scope="module")
def train() -> list[str]:
    return [str(row["passage"]) for row in python_docs.load("train")[0]]


@pytest.fixture(scope="module")
def evaluation() -> list[str]:
    return [str(row["passage"]) for row in python_docs.load("eval")[0]]


def test_there_are_enough_passages(train: list[str], evaluation: list[str]) -> None:
    assert 450 <= len(train) <= 1000
    assert 64 <= len(evaluation) <= 150


def test_passages_have_a_fitting_size(train: list[str], evaluation: list[str]) -> None:
    assert all(MIN_CHARACTERS <= len(passage) <= MAX_CHARACTERS for passage in train + evaluation)


def test_topics_are_held_out() -> None:
    topics = {split: {row["topic"] for row in python_docs.load(split)[0]} for split in ("train", "eval")}
    assert topics["eval"] == EVAL_TOPICS
    assert topics["train"].isdisjoint(EVAL_TOPICS)


def test_no_paragraph_comes_twice(train: list[str], evaluation: list[str]) -> None:
    paragraphs = [line for passage in train + evaluation for line in passage.split("\n")]
    assert len(set(paragraphs)) == len(paragraphs)


def test_passages_are_prose(train: list[str], evaluation: list[str]) -> None:
    for line in "\n".join(train + evaluation).split("\n"):
        assert re.search(r"[.?!][\"”)]?$", line), line
        assert not re.search(r"::=|>>>|\s{2}|\+--|\*\*\*\*", line), line


def test_what_is_kept_of_a_document() -> None:
    prose = (
        'The first paragraph is plain prose with a "name" in it and runs over two lines of ever-so short text. '
        "A bullet that says a whole sentence about *args and **kwargs and ends as one does."
    )
    first, bullet = prose.split(" A bullet")
    text = "\n\n".join(
        [DOCUMENT] + [f"Filler number {'x' * i} brings the passage up to its size." for i in range(1, 9)]
    )
    ((topic, passage),) = list(passages({"topic": text}, "train"))[:1]
    assert topic == "topic"
    assert passage.split("\n")[:2] == [first, f"A bullet{bullet}"]


def test_a_paragraph_of_two_topics_belongs_to_evaluation() -> None:
    name = min(EVAL_TOPICS)
    shared = " ".join(["This sentence stands in both documents."] * 8)
    topics = {"aaa": shared, name: shared}
    assert list(passages(topics, "eval")) == [(name, shared)]
    assert list(passages(topics, "train")) == []


def test_the_plain_prompt_asks_for_a_summary() -> None:
    problem = load_problems("python-docs")[0]
    assert problem.prompt == f"{problem.columns['passage']}\n\nTL;DR:"
    assert set(problem.columns) == {"passage", "topic"}


def test_the_chat_prompt_holds_the_same_passage() -> None:
    plain, chat = load_problems("python-docs", split="eval"), load_problems("python-docs?style=chat", split="eval")
    assert [p.columns for p in plain] == [p.columns for p in chat]
    ((message),) = chat[0].prompt
    assert isinstance(message, dict)
    assert message["role"] == "user"
    assert message["content"].endswith(f"\n\n{plain[0].columns['passage']}")


def test_the_record_tells_the_python_version_and_the_text() -> None:
    info = load_problems("python-docs").info
    assert info["python"] == platform.python_version()
    assert info["fingerprint"] == load_problems("python-docs", split="train").info["fingerprint"]
    assert info["fingerprint"] != load_problems("python-docs", split="eval").info["fingerprint"]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("python-docs", "test", r"no split 'test'; it has: train, eval\."),
        ("python-docs?style=chats", None, "no style 'chats'.*Did you mean \"chat\""),
        ("python-docs?stile=chat", None, "no option 'stile'.*Did you mean \"style\""),
    ],
)
def test_what_there_is_not_is_refused(name: str, split: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_problems(name, split=split)


def test_packaged_names() -> None:
    assert NAMES == ("python-docs",)
    assert is_packaged("python-docs?style=chat")
    assert not is_packaged("python-doc")
