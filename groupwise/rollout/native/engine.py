"""The native engine: prompts prefilled once a group, completions decoded together, finished rows make room."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from groupwise.errors import RolloutError
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.out_of_memory import release_memory
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.native.generation import Generation
from groupwise.rollout.native.recorder import Recorder, make_recorder
from groupwise.rollout.native.sessions import Sessions
from groupwise.rollout.native.static_decoder import StaticDecoder, StaticGeneration
from groupwise.rollout.nonfinite_logits import locate_nonfinite
from groupwise.types import Completion, Request, Sampling

_log = logging.getLogger(__name__)


class NativeEngine:
    """Samples with the fused model that the learner trains, so both read the same weights."""

    def __init__(
        self,
        fused: FusedModel,
        *,
        max_concurrent: int = 64,
        records: bool | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """`records` decides whether tokens are drawn over static buffers by steps that are recorded once and played
        again, with `recorder` or the device's own one; None: as the device's traits have it."""
        self.fused = fused
        records = fused.backend.has_static_decoding if records is None else records
        self.decoder = StaticDecoder(fused, recorder or make_recorder(fused.device)) if records else None
        self.version = 0
        self.capabilities = Capabilities("native")
        self._max_rows, self._is_halved = max_concurrent, False
        self.sessions = Sessions()

    def load_weights(self, policy: Any, version: int) -> None:
        """Weights are shared with the policy: refresh what was derived from them. No prefix outlives its weights."""
        self.sessions.clear()
        self.fused.refresh(pack=True)
        if self.decoder is not None:
            self.decoder.check_weights()
        self.version = version

    def close(self) -> None:
        """Release the static buffers and their recordings, which the next call makes again, and kept prefixes."""
        self.sessions.clear()
        if self.decoder is not None:
            self.decoder.grids.clear()

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        numbered = sorted(enumerate(requests), key=lambda pair: repr(pair[1].sampling))
        for sampling, chosen in groupby(numbered, key=lambda pair: pair[1].sampling):
            yield from self._within_memory(sampling, list(chosen))

    def _within_memory(
        self, sampling: Sampling, requests: list[tuple[int, Request]]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Where memory runs out, half as many completions decode together for the rest of the run: those that are
        not done begin again, and are the same ones."""
        is_done: set[int] = set()
        try:
            with locate_nonfinite(self.fused.source, self.fused.dtype):
                for number, completions in self._generation(sampling, requests).run():
                    is_done.add(number)
                    yield number, completions
            return
        except torch.OutOfMemoryError as error:
            reason = str(error).strip().split("\n")[0]
            if self._is_halved or self._max_rows == 1:
                raise RolloutError(
                    f"The GPU's memory has run out with {self._max_rows} completions at a time ({reason}) Set a "
                    "smaller max_concurrent_completions or max_completion_length."
                ) from error
        self._max_rows, self._is_halved = self._max_rows // 2, True
        self.close()
        release_memory()
        _log.warning(f"The GPU's memory ran out ({reason}) From now on {self._max_rows} completions decode together.")
        yield from self._within_memory(sampling, [pair for pair in requests if pair[0] not in is_done])

    def _generation(self, sampling: Sampling, requests: list[tuple[int, Request]]) -> Generation:
        arguments = (self.fused, self.version, self._max_rows, sampling, requests, self.sessions)
        if self.decoder is not None and self.decoder.can_decode(sampling):
            return StaticGeneration(self.decoder, *arguments)
        return Generation(*arguments)
