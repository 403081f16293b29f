"""Memory that runs out in mid-run: half as much at a time once, and the result is the same."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import trainer
from histories import completions, history
from tiny import tiny_model, tiny_tokenizer, with_lora

from groupwise.errors import ModelError, RolloutError, TrainingError
from groupwise.policy.backend import CPU, GPU, backend_override
from groupwise.policy.compute_limits import ComputeLimits
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import Pack
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.native.generation import Generation
from groupwise.types import Completion, Request, Sampling

SETTINGS: dict[str, Any] = {"max_steps": 2, "beta": 0.1, "num_iterations": 2, "num_minibatches": 2, "dtype": "float32"}
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation."


def full_above(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """A learner whose memory holds passes of so many tokens; the sizes that were tried."""
    made, tried = Pack.__init__, []

    def within(self: Pack, rows: Any, device: torch.device) -> None:
        made(self, rows, device)
        tried.append(len(self.input_ids_P) - self.num_padding)
        if tried[-1] > limit:
            raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(Pack, "__init__", within)
    return tried


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None = None, **settings: Any) -> Any:
    """A run after its training, in which memory holds passes of `limit` tokens; the sizes of its passes beside it."""
    with monkeypatch.context() as patched:
        run = trainer(folder, model=with_lora(tiny_model()), **SETTINGS, **settings)
        run.parts.policy.policy_model.limits = ComputeLimits(64, 64, 64)
        tried = full_above(patched, limit or 10**9)
        run.train()
    return run, tried


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 38}], ids=["auto", "fixed"])
def test_a_pass_that_does_not_fit_is_cut_once_and_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    whole, tried = trained(tmp_path / "whole", monkeypatch, **settings)
    cut, again = trained(tmp_path / "cut", monkeypatch, max(tried) - 1, **settings)
    assert len(again) > len(tried)
    assert cut.parts.policy.policy_model.limits.divisor == 2
    assert capsys.readouterr().out.count("From now on a pass holds half as many tokens") == 1
    assert completions(tmp_path / "cut").keys() == completions(tmp_path / "whole").keys()
    for mine, theirs in zip(cut.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    rewards = [[record["reward"] for record in history(tmp_path / name)] for name in ("cut", "whole")]
    assert rewards[0] == rewards[1]


def test_the_second_time_ends_the_run_with_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"memory has run out in a pass .*2\.00 GiB\.\) Set a smaller micro_batch_"):
        trained(tmp_path, monkeypatch, 1, guards={"agreement": "off"})


def test_memory_that_runs_out_at_the_start_is_no_reason_for_the_slow_path(tmp_path: Path, monkeypatch: Any) -> None:
    full_above(monkeypatch, 1)
    with pytest.raises(ModelError, match=r"memory ran out while the model was tried .*2\.00 GiB\.\) Free it"):
        trainer(tmp_path)


def requests() -> list[Request]:
    sampling, decode = Sampling(max_tokens=9, stop_ids=(2,)), tiny_tokenizer().decode
    counts = {(5, 6, 7, 8): 4, (9, 10): 6, (11, 12, 13): 3}
    return [Request(p, n, sampling, seed=(3, i), decode=decode) for i, (p, n) in enumerate(counts.items())]


def answers(engine: NativeEngine) -> list[Completion]:
    engine.load_weights(None, version=0)
    found = dict(engine.generate(requests()))
    return list(chain.from_iterable(found[n] for n in sorted(found)))


def full_with(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """An engine whose memory holds so many rows, and runs out in the middle of their decoding."""
    finished = Generation._finished_requests

    def within(self: Generation) -> Any:
        for done in finished(self):
            yield done
            if self.max_rows > rows:
                raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(Generation, "_finished_requests", within)


@pytest.mark.parametrize("backend", [CPU, GPU], ids=["single operations", "static buffers"])
def test_completions_that_do_not_fit_together_decode_in_two_halves(monkeypatch: Any, backend: Any) -> None:
    with backend_override(backend):
        fused = FusedModel(with_lora(tiny_model()), torch.float32)
        whole = answers(NativeEngine(fused, max_concurrent=8))
        full_with(monkeypatch, 4)
        engine = NativeEngine(fused, max_concurrent=8)
        cut = answers(engine)
    assert engine._max_rows == 4
    assert [c.token_ids for c in cut] == [c.token_ids for c in whole]
    for mine, theirs in zip(cut, whole, strict=True):
        assert mine.rollout_logprob == pytest.approx(theirs.rollout_logprob, abs=2e-5)


def test_an_engine_whose_memory_runs_out_twice_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = NativeEngine(FusedModel(tiny_model(), torch.float32), max_concurrent=8)
    full_with(monkeypatch, 2)
    with pytest.raises(RolloutError, match=r"with 4 completions at a time .* Set a smaller max_concurrent_completions"):
        answers(engine)
