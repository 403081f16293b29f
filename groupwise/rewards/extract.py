"""Finds the answer in a completion: inside a tag or a box, after "####" or "the answer is", or the last number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Literal

Place = Literal["auto", "whole", "tag", "boxed", "hashes", "phrase"]
"""The place of an answer. auto: the first of tag, boxed, hashes, phrase that the text has, otherwise the whole text."""

MAX_DIGITS = 300
"""Longer numbers are noise."""

MAX_BOXES = 20
"""Boxes looked at, from the last one back: a text of nothing but unclosed ones must not take long."""

_PHRASE = re.compile(
    r"\b(?:answer|result|solution)\b(?:\s+(?:is|are|was|equals|would be|will be|should be))?\s*[:=]?\s*",
    re.IGNORECASE,
)
_VERB = re.compile(r"\b(?:is|are|was|equals|be)\b|[:=]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=\S)[.!?](?:\s|$)")
NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}])[-+])?\s?[$€£¥]?\s?(?P<sign2>(?<=[$€£¥])[-+])?"
    r"(?P<value>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)(?P<exponent>[eE][-+]?\d{1,3}(?!\d))?"
    r"(?:\s?/\s?(?P<divisor>\d+(?:\.\d+)?))?"
)
_LATEX = (
    (re.compile(r"(?<=[\d}])\s*(?=\\[dt]?frac)"), " "),  # 3\frac{1}{2} holds two numbers, and neither is 31
    (re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))"), r"\1\2/\3\4"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\{,\}|(?<=\d)\\[,!](?=\d{3})"), ","),
    (re.compile(r"\\[,;:! ]|\\left|\\right"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree\b"), "°"),
    (re.compile("[−–](?=[\\s$€£]?[\\d.])"), "-"),
)


def tagged(text: str, tag: str) -> str | None:
    """The text inside the last `<tag>...</tag>`; None without one."""
    _, opening, rest = text.rpartition(f"<{tag}>")
    inside, closing, _ = rest.partition(f"</{tag}>")
    return inside if opening and closing else None


def boxes(text: str) -> Iterator[tuple[int, str, int]]:
    """Every closed `\\boxed{...}` from the last one back: start, text inside, end."""
    for match in list(re.finditer(r"\\boxed\s*\{", text))[: -MAX_BOXES - 1 : -1]:
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                yield match.start(), text[match.end() : position], position + 1
                break


def boxed(text: str) -> str | None:
    """The text inside the last closed `\\boxed{...}`, braces inside it included; None without one."""
    return next((inside for _, inside, _ in boxes(text)), None)


def after_hashes(text: str) -> str | None:
    """The text after the last "####" on its line, GSM8K's form; None without one."""
    found = re.findall(r"####[ \t]*([^\n]+)", text)
    return found[-1].strip() if found else None


def after_phrases(text: str) -> Iterator[str]:
    """The rest of the sentence after each "the answer is", "Answer:", "the result is", from the last one back."""
    for match in reversed([match for match in _PHRASE.finditer(text) if _VERB.search(match[0])]):
        line = text[match.end() :].partition("\n")[0]
        yield _SENTENCE_END.split(line)[0].strip(" *`_")


def after_phrase(text: str) -> str | None:
    """The rest of the sentence after the last of them; None without one."""
    return next(after_phrases(text), "") or None


def answer_text(text: str, place: Place = "auto", tag: str = "answer") -> str | None:
    """The part of the text that holds the answer; None where it has no such place (whole always has)."""
    if place == "whole":
        return text
    marked = None if place == "phrase" else _marked(text, place, tag)
    return after_phrase(text) if marked is None and place in ("auto", "phrase") else marked


def _marked(text: str, place: Place, tag: str) -> str | None:
    """The text in a tag, a box or after "####": at the named place, or (auto) the first of them the text has."""
    finders: dict[Place, Callable[[], str | None]] = {
        "tag": lambda: tagged(text, tag),
        "boxed": lambda: boxed(text),
        "hashes": lambda: after_hashes(text),
    }
    wanted = list(finders) if place == "auto" else [place]
    return next((part for each in wanted if (part := finders[each]()) is not None), None)


def plain_latex(text: str) -> str:
    """The text with the LaTeX around and inside plain numbers written out: \\frac{1}{2} is 1/2, 1{,}000 is 1,000."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text


def numbers(text: str) -> Iterator[int | float]:
    """Every number of a text in order: signs, thousands commas, decimals, powers of ten, fractions, plain LaTeX.

    Currency signs, percent signs and units are passed over.
    """
    for match in NUMBER.finditer(plain_latex(text)):
        if (value := number_of(match)) is not None:
            yield value


def the_number(text: str) -> int | float | None:
    """The one number of an answer, the one after its last "=" if it has one; None where it is none or several."""
    found = list(numbers(text.rpartition("=")[2])) or list(numbers(text))
    return found[0] if found and all(number == found[0] for number in found) else None


def find_number(text: str, place: Place = "auto", tag: str = "answer") -> int | float | None:
    """The number a completion answers with.

    whole: the last number of the text. auto: the number of the answer's place, and the last number of a text
    that has no such place. A tag, box or "####" with several different numbers answers with none of them.
    """
    if place == "whole":
        return last_number(text)
    if place != "phrase" and (answer := _marked(text, place, tag)) is not None:
        return the_number(answer)
    answer = after_phrase(text) if place in ("auto", "phrase") else None
    stated = None if answer is None else _stated_number(answer)
    return last_number(text) if stated is None and place == "auto" else stated


def last_number(text: str) -> int | float | None:
    """The last number of a text."""
    return next(iter([*numbers(text)][::-1]), None)


def _stated_number(answer: str) -> int | float | None:
    """After "the answer is" prose goes on: "12 apples, 3 more than before" answers 12, "5 + 7 = 12" too."""
    _, equals, right = answer.rpartition("=")
    return next(numbers(right if equals else answer), None)


def number_of(match: re.Match[str]) -> int | float | None:
    """The value of a match of NUMBER; None for a division by zero and for what is longer than MAX_DIGITS."""
    digits = match["value"].replace(",", "")
    if len(digits) > MAX_DIGITS:
        return None
    is_whole = digits.isdigit() and not match["exponent"]
    value: int | float = int(digits) if is_whole else float(digits + (match["exponent"] or ""))
    if match["divisor"]:
        if len(match["divisor"]) > MAX_DIGITS or not (divisor := float(match["divisor"])):
            return None
        value = value / divisor
    value = -value if "-" in (match["sign"], match["sign2"]) else value
    return value if math.isfinite(value) else None
