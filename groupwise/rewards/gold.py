"""Right answers of a data set: which rows have none, and the single number that an answer states.

A completion may be read generously. An answer that is read wrongly pays a wrong completion in every step, so an answer
is one number with what leaves it as it is (a sign, a currency or percent sign, a unit), or it is refused.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from numbers import Number, Rational, Real
from typing import Any

from groupwise.errors import DataError
from groupwise.rewards.extract import MAX_DIGITS, NUMBER, after_phrases, boxes, number_of, plain_latex

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_AFTER_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_BEFORE_A_FACTOR = re.compile(r"[-+−/^]\s*\{?\s*$")
_AFTER_A_FACTOR = re.compile(r"\s*(?:\^(?!\s*\{?\s*\\circ)|[/!\d]|\\(?:sqrt|pi|times|cdot|d?frac))")
_DELIMITERS = re.compile(r"^\s*(?:\$\$|\\\(|\\\[)|(?:\$\$|\\\)|\\\])\s*\.?\s*$")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_VARIABLE = re.compile(r"^(?:[A-Za-z]\s*)?=\s*")
_MARK = re.compile(r"^\s*(?:[$€£¥₹]|%|°\s?(?:[CF]\b)?)")
_END = re.compile(r"[\s$]*\.?[\s$]*$")
_WORD = re.compile(r"([A-Za-zÀ-ÖØ-öø-ÿ]+)(²|³|\^\{?[23]\}?)?")

MAX_UNIT_WORDS = 4
_SHORT = "m g s h l L V W A N J km cm mm nm kg mg lb oz ft in mi yd hr ms ml mL cl kW Hz KB MB GB TB"
UNITS = frozenset(_SHORT.split())
"""Units of one or two letters. Other words as short as that may be variables or multipliers (k, M, bn)."""
GLUED_UNITS = frozenset(unit for unit in UNITS if len(unit) > 1)
"""Those that may follow a number at once: 5m and 3x are formulas as likely as not."""
JOINING = frozenset(("of", "a", "an"))
"""Short words inside a unit: "slices of cake", "eggs a day"."""
_CHANGING = """
and or to not but than plus minus times over less least most more squared cubed factorial mod sqrt log sin cos tan
below under negative before after ago is are was were be if when except without
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands
million millions billion billions trillion trillions dozen dozens doz lakh lakhs crore crores mil mille millionen
millones tausend half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh
sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths
january february march april may june july august september october november december
jan feb mar apr jun jul aug sep sept oct nov dec
"""
NOT_A_UNIT = frozenset(_CHANGING.split())
"""Words that change the number before them, are a part of it, or make it a part of a date."""


def is_missing(answer: object) -> bool:
    """Whether a row has no answer: None, or what a table writes instead (NaN, NaT, NA, an infinity)."""
    answer = _unpacked(answer)
    if answer is None or type(answer).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(answer, Decimal):
        return not answer.is_finite()
    return isinstance(answer, Real) and not isinstance(answer, Rational) and not math.isfinite(answer)


def gold_number(reward: str, answer: object) -> int | float:
    """The number of a data set's answer that is not missing: a number, or a text that states exactly one.

    It is read in `<answer>` tags, `\\boxed{}` and "####" where the text has any, which must agree; otherwise after
    "the answer is"; otherwise in the whole text.

    Raises:
        DataError: it has no number, several, or one that is part of a formula, a date, a range.
    """
    value = _unpacked(answer)
    if not isinstance(value, bool) and isinstance(value, Number):
        found = [_as_number(value)]
    else:
        found = [None if part is None else only_number(part) for part in _stated(str(value))]
    first = found[0]
    if first is None or any(number != first for number in found):
        raise DataError(_complaint(reward, value))
    return first


def _complaint(reward: str, value: object) -> str:
    is_long = isinstance(value, int) and value.bit_length() > 1000  # Python does not write it out
    text = "a number of more than 300 digits" if is_long else str(value)
    if not re.search(r"\d", text):
        return (
            f"Reward {reward}: the data set's answer {text[:80]!r} has no number in it. Set column to the column with "
            "the answers; an answer of None leaves its completions unscored."
        )
    shown = text if len(text) <= 80 else f"... {text[-76:]}"
    return (
        f"Reward {reward}: the data set's answer {shown!r} is no single number. Expected one number with at most a "
        'sign, a currency or percent sign and a unit ("-1,234.5", "3/4", "$12", "12 km"), alone, in \\boxed{}, after '
        '"####" or after "The answer is". Write it as one number, or use reward math for formulas, tuples and sets.'
    )


def _unpacked(answer: Any) -> Any:
    """The answer; a scalar of numpy or torch as Python's own, the only entry of a list as itself."""
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    is_scalar = hasattr(answer, "item") and math.prod(getattr(answer, "shape", (0,))) == 1
    return answer.item() if is_scalar else answer


def _as_number(value: Any) -> int | float | None:
    """An int where it is exact, otherwise a float; None for what has two parts, or is longer than MAX_DIGITS."""
    is_real = isinstance(value, Real | Decimal)
    if not is_real or abs(value) >= 10**MAX_DIGITS:
        return None
    if isinstance(value, float):
        return value
    return whole if value == (whole := int(value)) else float(value)


def _stated(text: str) -> list[str | None]:
    """Every place where the text states its answer; None for a box that is one factor of a formula."""
    boxed = [
        None if _BEFORE_A_FACTOR.search(text[:start]) or _AFTER_A_FACTOR.match(text[end:]) else inside
        for start, inside, end in boxes(text)
    ]
    return [*_TAGGED.findall(text), *boxed, *_AFTER_HASHES.findall(text)] or [*after_phrases(text)] or [text]


def only_number(text: str) -> int | float | None:
    """The number of a text that holds nothing else but its marks and its unit; None for any other text."""
    plain = plain_latex(_DELIMITERS.sub("", text.translate(_FULL_WIDTH).strip()))
    plain = _VARIABLE.sub("", plain.strip(" \t\r\n\u00a0*`_\"'"))
    match = NUMBER.match(plain)
    if match is None or (match["sign"] and match["sign2"]) or not _is_unit(plain[match.end() :]):
        return None
    return number_of(match)


def _is_unit(tail: str) -> bool:
    """Whether what follows a number only names what it counts."""
    tail = re.sub(r"\s+\^", "^", _END.sub("", _MARK.sub("", tail)))
    words = tail.split()
    if not words:
        return True
    is_glued = not tail[0].isspace() and len(words[0]) < 4
    if len(words) > MAX_UNIT_WORDS or words[-1] in JOINING or (is_glued and words[0] not in GLUED_UNITS):
        return False
    return all(_counts(part) for word in words for part in re.split("[/-]", word))


def _counts(word: str) -> bool:
    """Whether a word can be part of a unit: a known short one, or a longer one that leaves the number as it is."""
    match = _WORD.fullmatch(word)
    if match is None:
        return False
    letters = match[1]
    return letters in UNITS | JOINING or (len(letters) >= 3 and letters.casefold() not in NOT_A_UNIT)
