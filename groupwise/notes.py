"""Notes: the log records of groupwise that a trainer or a command shows to its user.

Every module logs with `logging.getLogger(__name__)`: `warning` for what a user has to see, `info` for what is good to
know. Inside `shown_by` a function shows both; elsewhere logging does with them what the application has configured.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from groupwise.redact import redact

Show = Callable[[str], None]

_show: ContextVar[Show | None] = ContextVar("groupwise_show", default=None)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Inside, in this thread or task, `show` gets every note, without secrets; the innermost `show` alone.

    Handlers of the application get the records that they would get without this, each once.
    """
    token = _show.set(show)
    _HANDLER.enter()
    try:
        yield
    finally:
        _HANDLER.leave()
        _show.reset(token)


class _NotesHandler(logging.Handler):
    """Stands between the logger `groupwise` and the application's handlers while somebody is inside `shown_by`.

    Info records have to be made for the screen, which the levels of an application mostly prevent. So this handler
    lowers the level of the logger, and passes on to the application what its own levels let through.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logger = logging.getLogger("groupwise")
        self._counting = threading.Lock()
        self._num_inside = 0
        self._level, self._propagates = logging.NOTSET, True
        """The application's settings of the logger."""

    def enter(self) -> None:
        with self._counting:
            self._num_inside += 1
            if self._num_inside > 1:
                return
            self._level, self._propagates = self._logger.level, self._logger.propagate
            self._logger.addHandler(self)
            self._logger.setLevel(min(logging.INFO, self._logger.getEffectiveLevel()))
            self._logger.propagate = False

    def leave(self) -> None:
        with self._counting:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._logger.removeHandler(self)
                self._logger.setLevel(self._level)
                self._logger.propagate = self._propagates

    def emit(self, record: logging.LogRecord) -> None:
        show, root = _show.get(), logging.getLogger()
        if show is not None and record.levelno >= logging.INFO:
            show(redact(record.getMessage()))
        is_seen = show is not None and not root.handlers  # then logging's last resort would show it a second time
        if self._propagates and not is_seen and record.levelno >= self._level_for(record.name):
            root.callHandlers(record)

    def _level_for(self, name: str) -> int:
        """The level that the application has set for a logger of groupwise."""
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None and logger is not self._logger:
            if logger.level:
                return logger.level
            logger = logger.parent
        return self._level or logging.getLogger().level


_HANDLER = _NotesHandler()
