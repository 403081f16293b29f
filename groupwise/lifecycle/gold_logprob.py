"""The log-prob of the data's own answers under the policy, where held-out problems have one."""

from __future__ import annotations

from collections.abc import Sequence

from groupwise.config import Settings
from groupwise.data.prepare import PreparedProblem
from groupwise.policy.bounds import num_embeddings, num_logits
from groupwise.policy.bundle import PolicyBundle
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import Scoring
from groupwise.rewards.gold_answers import AnswerOf
from groupwise.train.learner import score_in_passes


class GoldLogProb:
    """Scores each answer as if it were the whole completion, without an end token: passes without gradient."""

    def __init__(self, policy: PolicyBundle, config: Settings, answer_of: AnswerOf) -> None:
        self._policy, self._config, self._answer_of = policy, config, answer_of
        self._num_ids = min(num_embeddings(policy.model), num_logits(policy.model))

    def __call__(self, problems: Sequence[PreparedProblem]) -> float | None:
        """Nats a token: the mean over the tokens of an answer, then over problems; None where no problem has one.

        Of a longer answer the first `max_completion_length` tokens count.
        """
        rows = self._rows(problems)
        if not len(rows):
            return None
        config, policy_model = self._config, self._policy.policy_model
        scoring = Scoring(config.temperature, config.repetition_penalty, with_entropy=False)
        passes = policy_model.limits.passes(rows, config.micro_batch_tokens)
        logprob_NT = score_in_passes(policy_model.score, rows, scoring, passes, policy_model.device)
        lengths = logprob_NT.new_tensor([len(ids) for ids in rows.token_ids])
        return float((logprob_NT.sum(1) / lengths).mean())

    def _rows(self, problems: Sequence[PreparedProblem]) -> CompletionRows:
        answers = [self._ids(self._answer_of(prepared.problem)) for prepared in problems]
        pairs = [(prepared.prompt_ids, ids) for prepared, ids in zip(problems, answers, strict=True) if ids]
        return CompletionRows([prompt for prompt, _ in pairs], [ids for _, ids in pairs], range(len(pairs)))

    def _ids(self, answer: str | None) -> tuple[int, ...]:
        """Empty without an answer, and for one that the model cannot write."""
        if answer is None:
            return ()
        ids = self._policy.tokenizer.encode(answer, add_special_tokens=False)[: self._config.max_completion_length]
        return tuple(ids) if max(ids, default=0) < self._num_ids else ()
