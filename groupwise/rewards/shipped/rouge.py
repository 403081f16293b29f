"""The reward for a summary near a reference one, by the words they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.extras import needed
from groupwise.rewards.match import accepted
from groupwise.rewards.parameters import ask_for_columns, check_word
from groupwise.rewards.verdict import LogWhy, Verdict, told

VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MEASURES = ("fmeasure", "precision", "recall")


@dataclass(frozen=True)
class Rouge:
    """ROUGE (Lin, 2004) of the completion against the reference in its column, the best of several, 0 to 1.

    Counted by the package rouge-score, Google's port of the original script: letters and digits of the Latin alphabet
    only, so a text in another script scores 0. rougeLsum compares line by line.
    """

    __name__: ClassVar[str] = "rouge"

    column: str = "summary"
    variant: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    measure: Literal["fmeasure", "precision", "recall"] = "fmeasure"
    stem: bool = True

    def __post_init__(self) -> None:
        check_word("rouge", "variant", self.variant, VARIANTS)
        check_word("rouge", "measure", self.measure, MEASURES)
        ask_for_columns(self, "rouge", [self.column])
        scorer = needed("rouge_score.rouge_scorer", "rouge", "Reward rouge")
        object.__setattr__(self, "_scorer", scorer.RougeScorer([self.variant], use_stemmer=self.stem))

    def __call__(
        self, completions: Sequence[CompletionValue], log_why: LogWhy | None = None, **columns: Sequence[Any]
    ) -> list[float | None]:
        pairs = zip(completions, columns[self.column], strict=True)
        return told((self._judge(completion_text(completion), summary) for completion, summary in pairs), log_why)

    def _judge(self, text: str, summary: Any) -> Verdict:
        references = accepted(summary)
        if not references:
            return None, "no reference in the data"
        scorer: Any = self._scorer  # type: ignore[attr-defined]  # set above, and no parameter
        scores = [scorer.score(reference, text)[self.variant] for reference in references]
        best = max(scores, key=lambda score: getattr(score, self.measure))
        return float(getattr(best, self.measure)), f"precision {best.precision:.2f}, recall {best.recall:.2f}"
