"""The same code on an NVIDIA GPU samples and learns what the plain way gives.

A CPU that computes as a GPU takes the same paths: attention in the compute dtype, no kernels, static buffers, steps
that are played again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from groupwise.policy.backend import GPU, backend_override

from .checks import CHECKS

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU that torch can use")

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(params=[pytest.param("cuda", marks=needs_gpu), "cpu as a GPU"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The GPU, or a CPU that computes as one."""
    with backend_override(GPU):
        yield torch.device(request.param.split()[0])


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_it_holds(check: Callable[[torch.device], None], device: torch.device) -> None:
    check(device)
