"""A reward of one's own: the right category, and a little for any of the five (docs/own-data.md)."""

from groupwise.rewards import completion_text

CATEGORIES = ("billing", "delivery", "returns", "account", "technical")


def right_category(completions, category, **columns):
    """1 for the right category, 0.2 for another one of the five, 0 for anything else."""
    words = [completion_text(completion).strip(" .\n").lower() for completion in completions]
    return [1.0 if word == right else 0.2 * (word in CATEGORIES) for word, right in zip(words, category, strict=True)]
