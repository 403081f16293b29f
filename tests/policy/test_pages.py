"""Released pages come back as they were: from their file, or never having left."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groupwise.policy.memory_pages import release_pages


def mapped_bytes(path: Path) -> int:
    """Resident bytes of this process that come from a file."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    found, inside = 0, False
    for line in lines:
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="pages are released on Linux alone")
def test_a_mapped_weight_leaves_memory_and_reads_the_same(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.randn(512, 1024)}, path)
    weight = load_file(path)["w"]
    before = weight.clone()
    assert mapped_bytes(path) >= weight.nbytes
    release_pages(weight)
    assert mapped_bytes(path) < weight.nbytes // 4
    assert torch.equal(weight, before)


def test_a_weight_in_memory_stays_as_it_is():
    weight = torch.randn(512, 1024)
    before = weight.clone()
    release_pages(weight)
    release_pages(weight[:, :3])
    release_pages(torch.empty(0))
    assert torch.equal(weight, before)
