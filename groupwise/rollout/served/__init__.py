"""Sampling by servers that are known by their addresses: stock vLLM over plain HTTP. No torch and no policy here."""
