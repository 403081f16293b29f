"""`python-docs`: summarise passages of the language reference that CPython itself carries (`pydoc_data.topics`).

Real prose, offline, a few hundred passages. Whole topics are held out for evaluation, and a paragraph that several
topics share belongs to one passage only, so that no evaluation text is ever trained on. The texts differ a little
between Python versions; the record of a run holds the version.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from typing import Any

from groupwise.errors import DataError, did_you_mean

EVAL_TOPICS = frozenset({"assignment", "execmodel", "import", "typesmapping", "exceptions"})
"""Held out from training."""

SPLITS = ("train", "eval")
STYLES = ("plain", "chat")

MIN_CHARACTERS, MAX_CHARACTERS = 250, 850
"""Size of a passage; with its prompt roughly 60 to 220 tokens."""

_NUM_WORDS = 8  # a shorter block is a heading, a signature or a remark
_PROSE_SHARE = 0.92  # of letters and plain punctuation; code and tables have less

_BULLET = re.compile(r"^(\*|\d+\.|[a-z]\.)\s+")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(?=\w)([^*]*?\w)\*{1,2}(?![\w*])")
_HYPHENATED = re.compile(r"(?<=\w)-\n\s*(?=\w)")
_FOOTNOTE = re.compile(r"\s*\[\d+\]")
_VERSION_NOTE = re.compile(r"^(Changed|New|Added|Deprecated|Removed) (in|since) ")
_NOT_PROSE = re.compile(r"[^A-Za-z ,.;:()'\"’“”\-]")
_TABLE_OR_CODE = re.compile(r"::=|>>>|^\s*[+|]|\(Pdb\)", re.MULTILINE)
_UNDERLINE = re.compile(r"\n([*=\-~^\"])\1{2,}$")
_SENTENCES = re.compile(r".*[.?!][\"”)]?(?=\s|$)")


def load(split: str, style: str = "plain") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with `prompt`, `topic` and `passage`, and the Python version they come from.

    `style` "plain" ends the passage with "TL;DR:"; "chat" requests a summary in one user message.
    """
    _check(split, SPLITS, "split")
    _check(style, STYLES, "style")
    from pydoc_data.topics import topics

    rows = [
        {"prompt": _prompt(passage, style), "topic": topic, "passage": passage}
        for topic, passage in passages(topics, split)
    ]
    return rows, {"python": platform.python_version()}


def passages(topics: Mapping[str, str], split: str) -> Iterator[tuple[str, str]]:
    """(topic, passage) in the order of the topics' names."""
    seen: set[str] = set()
    for topic in sorted(topics, key=lambda name: (name not in EVAL_TOPICS, name)):  # evaluation claims its text first
        for passage in _cut(topics[topic], seen):
            if (topic in EVAL_TOPICS) == (split == "eval"):
                yield topic, passage


def _cut(document: str, seen: set[str]) -> Iterator[str]:
    """Passages of whole paragraphs, none longer than `MAX_CHARACTERS`; paragraphs in `seen` are left out."""
    passage = ""
    for paragraph in _paragraphs(document):
        if paragraph in seen or len(paragraph) > MAX_CHARACTERS:
            continue
        seen.add(paragraph)
        if len(passage) + 1 + len(paragraph) > MAX_CHARACTERS:
            if len(passage) >= MIN_CHARACTERS:
                yield passage
            passage = ""
        passage = f"{passage}\n{paragraph}".strip()
        if len(passage) >= MIN_CHARACTERS:
            yield passage
            passage = ""


def _paragraphs(document: str) -> Iterator[str]:
    """The prose of a document, one line a paragraph: without headings, grammars, tables, code and version notes."""
    for block in re.split(r"\n\s*\n", document):
        if _TABLE_OR_CODE.search(block) or _UNDERLINE.search(block):
            continue
        text = _BULLET.sub("", " ".join(_HYPHENATED.sub("-", block).split()))
        text = _FOOTNOTE.sub("", _EMPHASIS.sub(r"\1", text))
        sentences = _SENTENCES.match(text)  # what announces an example ("For instance:") goes with it
        if sentences and _is_prose(sentences[0]):
            yield sentences[0]


def _is_prose(text: str) -> bool:
    share = 1 - len(_NOT_PROSE.findall(text)) / len(text)
    return len(text.split()) >= _NUM_WORDS and share >= _PROSE_SHARE and not _VERSION_NOTE.match(text)


def _prompt(passage: str, style: str) -> Any:
    if style == "chat":
        return [{"role": "user", "content": f"Summarize this text in one short sentence.\n\n{passage}"}]
    return f"{passage}\n\nTL;DR:"


def _check(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise DataError(f"python-docs has no {what} {value!r}; it has: {', '.join(known)}.{did_you_mean(value, known)}")
