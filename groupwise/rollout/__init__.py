"""Engines sample groups of completions: ids in, ids and log-probs out."""
