"""Process-wide settings of torch: training sets its own and restores the program's.

Gradients switched off, another default dtype or device, and autocast reach every tensor that is made after them. A
script sets them at its top; a reward or a callback sets them and leaves them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

import torch

CPU = torch.device("cpu")
AUTOCAST = ("cpu", "cuda")
"""Types of device whose autocast is set."""


@dataclass(frozen=True)
class TorchSettings:
    """Settings that change what torch computes."""

    has_gradients: bool = True
    is_inference: bool = False
    dtype: torch.dtype = torch.float32
    """Of floating point tensors that name none."""
    device: torch.device = CPU
    """Of tensors that name none."""
    autocast: tuple[bool, ...] = (False,) * len(AUTOCAST)

    @classmethod
    def now(cls) -> Self:
        """Those of this thread."""
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            tuple(torch.is_autocast_enabled(device) for device in AUTOCAST),
        )

    @contextmanager
    def set(self) -> Iterator[None]:
        """Set them; on the way out a device and inference mode are as before, the rest is the caller's to set."""
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled() != self.is_inference:
                stack.enter_context(torch.inference_mode(self.is_inference))
            if torch.get_default_device() != self.device:
                stack.enter_context(self.device)
            self._switch()
            yield

    def _switch(self) -> None:
        torch.set_grad_enabled(self.has_gradients)
        torch.set_default_dtype(self.dtype)
        for device, is_on in zip(AUTOCAST, self.autocast, strict=True):
            torch.set_autocast_enabled(device, is_on)


_OF_TRAINING = TorchSettings()
_of_program: ContextVar[TorchSettings | None] = ContextVar("settings of the program", default=None)
"""None outside of training."""


@contextmanager
def settings_of_training() -> Iterator[None]:
    """Inside, torch computes as training needs it; afterwards, as the program has set it."""
    if _of_program.get() is not None and TorchSettings.now() == _OF_TRAINING:  # inside already
        yield
        return
    before = _of_program.set(TorchSettings.now())
    try:
        with _OF_TRAINING.set():
            yield
    finally:
        theirs = _of_program.get()
        assert theirs is not None
        theirs._switch()
        _of_program.reset(before)


def forget_program() -> None:
    """Let code of the program run under this thread's settings from now on: another thread is training, and most
    settings are the whole process's."""
    _of_program.set(None)


@contextmanager
def settings_of_program() -> Iterator[None]:
    """Inside, for code of the program, torch is as the program has set it, and what it sets stays set for it."""
    theirs = _of_program.get()
    if theirs is None:
        yield
        return
    try:
        with theirs.set():
            try:
                yield
            finally:
                _of_program.set(TorchSettings.now())
    finally:
        _OF_TRAINING._switch()
