"""The reward for staying in one language, recognised by its script."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from groupwise.chat import CompletionValue, completion_text, content_text
from groupwise.rewards.answer_reward import LogWhy, Verdict, split_reasons
from groupwise.rewards.extract import tagged
from groupwise.rewards.parameters import check_tag, check_word
from groupwise.types import Prompt

LANGUAGES = {
    "latin": {"LATIN"},
    "cyrillic": {"CYRILLIC"},
    "greek": {"GREEK"},
    "arabic": {"ARABIC"},
    "hebrew": {"HEBREW"},
    "devanagari": {"DEVANAGARI"},
    "thai": {"THAI"},
    "chinese": {"CJK", "BOPOMOFO"},
    "japanese": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
    "korean": {"HANGUL", "CJK"},
}
"""Word of a recipe -> the scripts it is written in, as the names of Unicode's characters begin."""

_NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\[A-Za-z]+|</?[\w-]+>|https?://\S+", re.DOTALL
)


@dataclass(frozen=True)
class Language:
    """The share of letters that belong to the wanted script, 0 to 1; a text without letters is unscored.

    DeepSeek-R1 (2501.12948), section 2.3.2, rewards the proportion of words in the target language; a script is
    recognised without a language model, so English and German are one here, English and Chinese two. Code,
    formulas, LaTeX commands, tags and addresses are left out. `script: prompt` wants the commonest one of the prompt.
    """

    __name__: ClassVar[str] = "language"
    highest: ClassVar[float] = 1.0

    script: str = "latin"
    tag: str | None = None

    def __post_init__(self) -> None:
        check_word("language", "script", self.script, [*LANGUAGES, "prompt"])
        if self.tag is not None:
            check_tag("language", self.tag)

    def __call__(
        self,
        completions: Sequence[CompletionValue],
        prompts: Sequence[Prompt] | None = None,
        log_why: LogWhy | None = None,
    ) -> list[float | None]:
        assert self.script != "prompt" or prompts is not None, "the script of the prompt is read in prompts"
        asked: Sequence[Prompt] = prompts or [""] * len(completions)
        pairs = zip(map(completion_text, completions), asked, strict=True)
        return split_reasons((self._verdict(text, prompt) for text, prompt in pairs), log_why)

    def _verdict(self, text: str, prompt: Prompt) -> Verdict:
        part = text if self.tag is None else tagged(text, self.tag)
        if part is None:
            return 0.0, f"no <{self.tag}>"
        counts = _scripts(part)
        wanted = LANGUAGES[self.script] if self.script != "prompt" else _commonest(_prompt_text(prompt))
        if not counts or not wanted:
            return None, "no letters"
        share = sum(counts[script] for script in wanted) / counts.total()
        return share, ", ".join(f"{script.lower()} {count}" for script, count in counts.most_common(3))


def _scripts(text: str) -> Counter[str]:
    """Number of letters of each script in the prose of a text."""
    return Counter(_script(char) for char in _NOT_PROSE.sub(" ", text) if char.isalpha())


@lru_cache(maxsize=4096)
def _script(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").split()[0]


def _commonest(text: str) -> set[str]:
    """The scripts of the language whose letters are most of the text; Japanese shows by its kana."""
    counts = _scripts(text)
    if not counts:
        return set()
    kana = counts["HIRAGANA"] + counts["KATAKANA"]
    by_language = {name: sum(counts[script] for script in scripts) for name, scripts in LANGUAGES.items()}
    if kana and by_language["japanese"] == max(by_language.values()):
        return LANGUAGES["japanese"]
    return LANGUAGES[max(by_language, key=lambda name: by_language[name])]


def _prompt_text(prompt: Prompt) -> str:
    """The last user message of a chat, or the plain prompt."""
    if isinstance(prompt, str):
        return prompt
    asked = [content_text(message["content"]) for message in prompt if message["role"] == "user"]
    return asked[-1] if asked else ""
