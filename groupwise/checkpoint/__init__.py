"""Checkpoints: saving, loading, resuming, rolling back."""
