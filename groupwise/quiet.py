"""Silences the progress bars of transformers, which would tear the live screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from groupwise.transformers_internals import without_gguf_bars


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, nothing draws a bar while weights are loaded, converted or written; afterwards as it was."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with without_gguf_bars():
            yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
