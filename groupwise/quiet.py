"""Silences the progress bars of transformers, which would tear the live screen."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, nothing draws a bar while weights are loaded, converted or written; afterwards as it was."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    was_enabled, drawn_by_gguf = logging.is_progress_bar_enabled(), gguf.tqdm
    logging.disable_progress_bar()
    gguf.tqdm = functools.partial(drawn_by_gguf, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = drawn_by_gguf
        if was_enabled:
            logging.enable_progress_bar()
