"""The process: its rank among those that train together, its device, number format and memory.

Rank 0 leads: it draws, scores, records and saves. Every rank computes the same plan and runs its share of passes, and
one sum of gradients follows. A world of size 1 needs no process group: each of its calls is the identity.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from groupwise.launch import local_rank, world_size
from groupwise.torch_internals import has_amx, has_avx512_bf16

T = TypeVar("T")


class World:
    """The ranks of a run; this class is the one of size 1."""

    rank = 0
    size = 1
    is_leading = False
    """Whether rank 0 is inside a call that the other ranks follow."""
    is_broken = False
    """Whether another rank is missed, so that no order reaches it any more."""

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def share(self, value: T, what: str) -> T:
        """The value of rank 0, on every rank; `what` names it where a rank is missed."""
        return value

    def gather(self, value: T, what: str) -> list[T]:
        """The values of all ranks in their order, on every rank."""
        return [value]

    def gather_from(self, call: Callable[[], T], what: str) -> list[T]:
        """What `call` returns on each rank, in their order; the error of one is raised on every rank."""
        return [call()]

    def sum_(self, tensors: Sequence[Tensor], what: str) -> None:
        """Replace each tensor by its sum over the ranks, the same bits on each."""

    def share_tensors(self, tensors: Sequence[Tensor], what: str) -> None:
        """Overwrite each tensor by that of rank 0."""

    def order(self, name: str, payload: Any = None) -> None:
        """Rank 0 has the other ranks carry out an order."""

    def on_missed(self, call: Callable[[str], None]) -> None:
        """Call `call` with a sentence before this process is ended because another rank is missed."""

    def next_order(self) -> tuple[str, Any]:
        """On another rank: the name of the next order of rank 0, and what comes with it."""
        raise AssertionError("one rank alone has nobody to follow")

    def mesh(self, device: torch.device) -> Any:
        """The ranks as a `DeviceMesh` of one dimension, over which weights are sharded."""
        raise AssertionError("one rank alone has nobody to share weights with")

    @contextmanager
    def collective(self, what: str) -> Iterator[None]:
        """Inside, this rank waits for `what` of the other ranks, by a call that is not one of these."""
        yield

    @contextmanager
    def lockstep(self, what: str) -> Iterator[None]:
        """Inside, this rank waits for nothing but the other ranks, so one that does not compute hangs."""
        yield

    def lead(self, call: Callable[[], T], after: Callable[[], Any]) -> T:
        """The result of `call`; rank 0 of several gives the other ranks its orders in it."""
        return call()


class Ended:
    """The last order of a call that rank 0 has led: what it returned or raised, and the state after it."""

    def __init__(self, result: Any, error: BaseException | None, state: Any) -> None:
        self.result, self.error, self.state = result, error, state


def portions(costs: Sequence[float], size: int) -> list[list[int]]:
    """For each rank the numbers of the pieces of work that it does, in ascending order.

    Every rank finds the same division: the costliest piece first, each to the rank with the least to do.
    """
    loads = [(0.0, rank) for rank in range(size)]
    found: list[list[int]] = [[] for _ in range(size)]
    for piece in sorted(range(len(costs)), key=lambda piece: (-costs[piece], piece)):
        load, rank = heapq.heappop(loads)
        heapq.heappush(loads, (load + costs[piece], rank))
        found[rank].append(piece)
    return [sorted(pieces) for pieces in found]


def portion(costs: Sequence[float], world: World) -> list[int]:
    """Numbers of the pieces of work that this rank does; see `portions`."""
    return portions(costs, world.size)[world.rank]


def stretch(total: int, rank: int, size: int) -> range:
    """Numbers of the neighbouring pieces that a rank does of `total` equal ones."""
    return range(rank * total // size, (rank + 1) * total // size)


def pick_device(*, use_cpu: bool = False) -> torch.device:
    """The GPU when there is one, else the CPU; of several launched processes each takes a GPU of its own."""
    if use_cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank()) if world_size() > 1 else torch.device("cuda")


def gpu_id(device: torch.device) -> str | None:
    """The UUID of a GPU as its driver lists it (`GPU-...`), None for another device."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The compute dtype. "auto" is bfloat16 where products in it are fast, else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the machine multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (has_avx512_bf16() or has_amx())


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory used so far: of the GPU by tensors, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
