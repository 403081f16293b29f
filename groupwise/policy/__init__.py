"""The model being trained: loading, adapters, log-probabilities, the reference."""
