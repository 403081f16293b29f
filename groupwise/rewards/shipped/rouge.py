"""The reward for a summary near a reference one, by the words they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from groupwise.rewards.answer_reward import AnswerReward, Verdict
from groupwise.rewards.match import accepted
from groupwise.rewards.parameters import check_word, require_extra

VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MEASURES = ("fmeasure", "precision", "recall")


@dataclass(frozen=True)
class Rouge(AnswerReward):
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
        super().__post_init__()
        check_word("rouge", "variant", self.variant, VARIANTS)
        check_word("rouge", "measure", self.measure, MEASURES)
        scorer = require_extra("rouge_score.rouge_scorer", "rouge", "Reward rouge")
        object.__setattr__(self, "_scorer", scorer.RougeScorer([self.variant], use_stemmer=self.stem))

    def verdict(self, text: str, answer: Any) -> Verdict:
        references = accepted(answer)
        if not references:
            return None, "no reference in the data"
        scorer: Any = self._scorer  # type: ignore[attr-defined]  # set above, and no parameter
        scores = [scorer.score(reference, text)[self.variant] for reference in references]
        best = max(scores, key=lambda score: getattr(score, self.measure))
        return float(getattr(best, self.measure)), f"precision {best.precision:.2f}, recall {best.recall:.2f}"
