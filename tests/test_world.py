"""Where a run takes place: one process, a device, a number format."""

from __future__ import annotations

import pytest
import torch

from groupwise import world

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("has_gpu", "use_cpu", "expected"), [(True, False, GPU), (True, True, CPU), (False, False, CPU)]
)
def test_the_gpu_is_taken_unless_the_user_wants_the_cpu(monkeypatch, has_gpu, use_cpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert world.pick_device(use_cpu=use_cpu) == expected


def test_each_of_several_ranks_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert world.pick_device() == torch.device("cuda", 1)


@pytest.mark.parametrize("is_fast", [True, False])
def test_auto_is_bfloat16_only_where_it_is_fast(monkeypatch, is_fast):
    monkeypatch.setattr(world, "has_fast_bfloat16", lambda device: is_fast)
    assert world.pick_dtype("auto", CPU) == (torch.bfloat16 if is_fast else torch.float32)
    assert world.pick_dtype("bfloat16", CPU) == torch.bfloat16
    assert world.pick_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize(("avx512", "amx"), [(True, False), (False, True), (False, False)])
def test_a_cpu_is_fast_in_bfloat16_when_it_multiplies_it(monkeypatch, avx512, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert world.has_fast_bfloat16(CPU) == (avx512 or amx)


def test_peak_memory_grows_with_what_is_used():
    before = world.peak_memory_bytes(CPU)
    block = torch.ones(40_000_000)
    assert world.peak_memory_bytes(CPU) >= before
    assert before > 10_000_000, "bytes, not kilobytes"
    del block
