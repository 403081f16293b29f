"""Text comparison that ignores case, punctuation, articles and white space."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from typing import Any

from groupwise.rewards.gold import is_missing

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def without_punctuation(text: str) -> str:
    """The text with every punctuation mark taken out."""
    return "".join(char for char in text if not unicodedata.category(char).startswith("P"))


def plain_words(text: str) -> list[str]:
    """Lower-case words without punctuation and English articles, as SQuAD's evaluation compares answers."""
    return _ARTICLES.sub(" ", without_punctuation(text.casefold())).split()


def accepted(answer: Any) -> list[str]:
    """The answers that a data set accepts: one text, or a list of them; none where they are missing."""
    listed = answer if isinstance(answer, list | tuple) else [answer]
    return [str(each) for each in listed if not is_missing(each)]


def word_f1(given: str, gold: str) -> float:
    """Harmonic mean of precision and recall over plain words, counted with repetition (SQuAD, 1606.05250)."""
    given_words, gold_words = plain_words(given), plain_words(gold)
    if not given_words or not gold_words:
        return float(given_words == gold_words)
    common = sum((Counter(given_words) & Counter(gold_words)).values())
    return 2 * common / (len(given_words) + len(gold_words))


def similarity(given: str, gold: str) -> float:
    """2 x matching characters / all characters of the plain words (Ratcliff and Obershelp), 0 to 1."""
    return SequenceMatcher(None, " ".join(plain_words(given)), " ".join(plain_words(gold)), autojunk=False).ratio()
