"""Checkpoints: what is saved, how a run goes on from it, and back to an earlier one."""
