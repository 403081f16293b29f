"""Our engine: shared prompts, continuous batching, and the learner's own model definition."""

from groupwise.rollout.native.engine import NativeEngine

__all__ = ["NativeEngine"]
