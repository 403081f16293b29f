"""The Chinese pages keep step with the English ones: code, figures, links and pictures, piece by piece.

A piece is a heading, a block of code, a cell of a table, a point of a list or a paragraph. The pieces of both pages
stand in the same order. In Chinese every figure is written in digits; a figure that English writes as a word (two, ten,
a hundred) counts as its digits. Comments inside code may be translated, their figures stay.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TWINS = {"README.md": "README.zh.md", "docs/case-study.md": "docs/zh/case-study.md"}
"""English page -> Chinese page."""

ENGLISH = {chinese: english for english, chinese in TWINS.items()}

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`[^`]*`")
COMMENT = re.compile(r"(?:^|[ ]+)# .*$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
MARK = re.compile(r"#+ |\* |\d+\. ")
EDGE = re.compile(r"(?<!\\)\|")
NUMBER = r"(?<![\w.,])[-+]\d+(?:[.,:]\d+)*(?:e-?\d+)?|\d+(?:[.,:]\d+)*(?:e-?\d+)?"
UP_TO_TWELVE = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WORDS = {
    **{word: str(number) for number, word in enumerate(UP_TO_TWELVE, 2)},
    "twenty": "20",
    "thirty": "30",
    "fifty": "50",
    "a hundred": "100",
    "a thousand": "1000",
}
WORD = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
UNITS = {
    "second": ("s|seconds?", "s|秒"),
    "minute": ("minutes?", "分钟"),
    "hour": ("hours?", "小时"),
    "character": ("characters?", "个字符"),
    "step": ("steps?", "步"),
    "speed": ("tokens/s", "tokens/s"),
    "token": ("tokens?", "(?:个 )?token"),
    "completion": ("completions?", "个补全"),
    "prompt": ("prompts?", "个提示词"),
    "core": ("cores?", "个核心?"),
    "parameter": ("M-parameter", "M 参数"),
    "GiB": ("GiB", "GiB"),
    "MiB": ("MiB", "MiB"),
    "percent": ("%", "%"),
    "times": ("(?<=[0-9])x|times", "(?<=[0-9])x|倍"),
}
"""Unit -> how English and Chinese write it."""


@dataclass(frozen=True)
class Piece:
    """What a piece has to have in both languages."""

    kind: str
    """The mark of a heading or a point, "code", "cell", "comment" or "text"."""
    code: tuple[str, ...]
    """A block without its comments, or the code spans."""
    links: tuple[str, ...]
    """Targets as paths from the root of the repository, a Chinese page as its English twin; a picture begins with !."""
    numbers: tuple[str, ...]
    units: frozenset[tuple[str, str]]
    """Number and unit of every number that has one."""

    def differs(self, other: Piece) -> bool:
        """Whether anything differs; a unit that only one language writes does not count."""
        mine, yours = (
            (piece.kind, piece.code, piece.links, piece.numbers, {n for n, _ in piece.units}) for piece in (self, other)
        )
        both = mine[-1] & yours[-1]
        units = ({(n, unit) for n, unit in piece.units if n in both} for piece in (self, other))
        return mine[:-1] != yours[:-1] or next(units) != next(units)


def parts(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of every piece of a page."""
    end = 0
    for fence in FENCE.finditer(text):
        yield from prose(text[end : fence.start()])
        yield "code", fence[0]
        end = fence.end()
    yield from prose(text[end:])


def prose(text: str) -> Iterator[tuple[str, str]]:
    """The pieces of a text without blocks of code. A line that starts none goes on with the one before."""
    kind, lines = "text", list[str]()
    for line in [*text.splitlines(), ""]:
        mark = MARK.match(line)
        if lines and (not line or mark or line[0] in "|<"):
            yield kind, "\n".join(lines)
            kind, lines = "text", []
        if line.startswith("|"):
            yield from (("cell", cell) for cell in EDGE.split(line)[1:-1])
        elif line.startswith("<!--"):
            yield "comment", line
        elif line:
            kind, lines = mark[0].strip() if mark else kind, [*lines, line]


def piece(page: str, kind: str, text: str) -> Piece:
    if kind == "comment":
        return Piece(kind, (text,), (), (), frozenset())
    if kind == "code":
        code, read = [COMMENT.sub("", text)], "\n".join(COMMENT.findall(text))
    else:
        code, read = SPAN.findall(text), SPAN.sub("", text)
    found = figures(LINK.sub(r"\2", read), is_chinese=page in ENGLISH)
    return Piece(
        kind=kind,
        code=tuple(sorted(code)),
        links=tuple(sorted(mark + target(page, link) for mark, _, link in LINK.findall(read))),
        numbers=tuple(sorted(number for number, _ in found)),
        units=frozenset((number, unit) for number, unit in found if unit),
    )


def target(page: str, link: str) -> str:
    """What a link or a picture leads to, the same from either language."""
    if re.match(r"[a-z]+:", link):
        return link
    path, hash_sign, anchor = link.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(page), path))
    path = ENGLISH.get(path, path)
    return path if path in TWINS else path + hash_sign + anchor


def figures(text: str, is_chinese: bool) -> list[tuple[str, str]]:
    """Number and unit, "" where none follows."""
    if not is_chinese:
        text = WORD.sub(lambda word: WORDS[word[0].lower()], text)
    units = "|".join(f"(?P<{unit}>{written[is_chinese]})" for unit, written in UNITS.items())
    found = re.finditer(rf"({NUMBER})(?:[\s-]?(?:{units})(?![A-Za-z0-9/]))?", text)
    return [(match[1], match.lastgroup or "") for match in found]


def differences(english: str, text: str, chinese_text: str) -> list[str]:
    """Where a Chinese page is out of step with its English twin, from the first piece on."""
    nothing = ("text", "")
    return [
        f"\n{ours[1]}\n\nis not in step with\n\n{theirs[1]}"
        for ours, theirs in itertools.zip_longest(parts(text), parts(chinese_text), fillvalue=nothing)
        if piece(english, *ours).differs(piece(TWINS[english], *theirs)) or nothing in (ours, theirs)
    ]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("english", TWINS)
def test_a_chinese_page_is_in_step(english: str) -> None:
    found = differences(english, read(english), read(TWINS[english]))
    assert not found, f"{len(found)} pieces differ; the first: {found[0]}"


@pytest.mark.parametrize(("page", "twin"), [*TWINS.items(), *ENGLISH.items()])
def test_every_digit_that_changes_in_one_page_is_found(page: str, twin: str) -> None:
    """In prose, tables, code, comments and targets of links."""
    unseen = []
    for (kind, text), (_, kept) in zip(parts(read(page)), parts(read(twin)), strict=True):
        for digit in re.finditer(r"[0-9]", text):
            changed = f"{text[: digit.start()]}{(int(digit[0]) + 1) % 10}{text[digit.end() :]}"
            if not piece(page, kind, changed).differs(piece(twin, kind, kept)):
                unseen.append(changed)
    assert not unseen


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("5 分钟", "5 秒"),
        ("make demo ", "make demos "),
        ("demo-reward.png", "demo-screen.svg"),
        ("![演示", "[演示"),
        ("docs/run-folder.md", "docs/data.md"),
        ("## 安装", "### 安装"),
        ("`constraints.txt`", "constraints.txt"),
    ],
)
def test_other_changes_are_found(written: str, wrong: str) -> None:
    text = read("README.zh.md")
    assert written in text
    assert differences("README.md", read("README.md"), text.replace(written, wrong, 1))
