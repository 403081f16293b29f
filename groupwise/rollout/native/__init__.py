"""Our engine: shared prompts, continuous batching, and the learner's own model definition."""

from .engine import NativeEngine

__all__ = ["NativeEngine"]
