"""The life of a run: one builder, the hooks that follow each step, what happens when a run ends."""
