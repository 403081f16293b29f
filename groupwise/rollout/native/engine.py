"""The native engine: prompts prefilled once a group, completions decoded together, finished rows make room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from groupwise.policy.fused_model import FusedModel
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.native.generation import Generation
from groupwise.rollout.native.recorder import Recorder, make_recorder
from groupwise.rollout.native.sessions import Sessions
from groupwise.rollout.native.static_decoder import StaticDecoder, StaticGeneration
from groupwise.rollout.nonfinite_logits import locate_nonfinite
from groupwise.types import Completion, Request


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
        self._max_rows = max_concurrent
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
            arguments = (self.fused, self.version, self._max_rows, sampling, list(chosen), self.sessions)
            with locate_nonfinite(self.fused.source, self.fused.dtype):
                if self.decoder is not None and self.decoder.can_decode(sampling):
                    yield from StaticGeneration(self.decoder, *arguments).run()
                else:
                    yield from Generation(*arguments).run()
