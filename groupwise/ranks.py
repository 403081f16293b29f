"""Several ranks in one process group: what they share, gather and sum, and who is named when one is missed."""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from groupwise.errors import ConfigError, RankError
from groupwise.heartbeat import Heartbeat
from groupwise.launch import local_rank, rank, world_size
from groupwise.torch_internals import store_of_process_group
from groupwise.world import Ended, World

T = TypeVar("T")

FOREVER = timedelta(days=365)
"""Time limit of a collective: the heartbeat ends a wait, not a clock, so a slow reward is no hang."""
BUCKET_NUMBERS = 2**26
"""Numbers that are summed in one call: 256 MiB of float32."""
JOIN_SECONDS = 600


class Ranks(World):
    """This process among several. Objects travel over gloo, gradients over NCCL where they lie on GPUs."""

    def __init__(self, rank: int, size: int, control: Any, data: Any, heartbeat: Heartbeat) -> None:
        self.rank, self.size = rank, size
        self.is_leading = self.is_broken = False
        self._control, self._data, self._heartbeat = control, data, heartbeat
        self.num_bytes_shared = 0
        """Bytes of the objects that rank 0 has shared."""

    def share(self, value: T, what: str) -> T:
        blob = pickle.dumps(value, pickle.HIGHEST_PROTOCOL) if self.is_leader else b""
        self.num_bytes_shared += len(blob)
        length = torch.tensor([len(blob)])
        with self.collective(what):
            dist.broadcast(length, 0, group=self._control)
            buffer = torch.frombuffer(bytearray(blob or int(length)), dtype=torch.uint8)
            dist.broadcast(buffer, 0, group=self._control)
        return value if self.is_leader else pickle.loads(buffer.numpy().tobytes())  # from rank 0 of this very run

    def gather(self, value: T, what: str) -> list[T]:
        values: list[Any] = [None] * self.size
        with self.collective(what):
            dist.all_gather_object(values, value, group=self._control)
        return values

    def gather_from(self, call: Callable[[], T], what: str) -> list[T]:
        value, mine = None, None
        try:
            value = call()
        except Exception as error:
            if self.is_broken:  # the others end already
                raise
            mine = error
        sent = None if mine is None else _sent(mine, RankError(f"Rank {self.rank}: {type(mine).__name__}: {mine}"))
        found: list[Any] = self.gather((value, sent), what)
        failed = next((rank for rank, (_, error) in enumerate(found) if error is not None), None)
        if failed is not None:
            raise found[failed][1] if mine is None or failed != self.rank else mine
        return [value for value, _ in found]

    def sum_(self, tensors: Sequence[Tensor], what: str) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self.collective(what):
                dist.all_reduce(flat, group=self._group_of(flat))
            for tensor, summed in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def share_tensors(self, tensors: Sequence[Tensor], what: str) -> None:
        for tensor in tensors:
            whole = tensor.contiguous()
            with self.collective(what):
                dist.broadcast(whole, 0, group=self._group_of(whole))
            if whole is not tensor:
                tensor.copy_(whole)

    def order(self, name: str, payload: Any = None) -> None:
        if self.is_leader:
            self.share((name, payload), f'order "{name}" of rank 0')

    @contextmanager
    def lockstep(self, what: str) -> Iterator[None]:
        try:
            with self._heartbeat.lockstep(what):
                yield
        except BaseException as error:  # the others are in the middle of it, and no order reaches them
            self.is_broken = True
            self._heartbeat.report(error)
            raise

    def lead(self, call: Callable[[], T], after: Callable[[], Any]) -> T:
        self.is_leading = True
        try:
            result = call()
        except BaseException as error:
            if self.is_broken:
                raise
            self.order("end", Ended(None, _sent(error, RankError(f"Rank 0: {type(error).__name__}: {error}")), after()))
            raise
        finally:
            self.is_leading = False
        self.order("end", Ended(_sent(result, None), None, after()))
        return result

    def next_order(self) -> tuple[str, Any]:
        name, payload = self.share(("", None), "the next order of rank 0")
        return name, payload

    def mesh(self, device: torch.device) -> Any:
        group = self._data if device.type == "cuda" else self._control
        return DeviceMesh.from_group(group, device.type)

    def on_missed(self, call: Callable[[str], None]) -> None:
        self._heartbeat.on_missed = call

    def _group_of(self, tensor: Tensor) -> Any:
        return self._data if tensor.is_cuda else self._control

    @contextmanager
    def collective(self, what: str) -> Iterator[None]:
        try:
            with self._heartbeat.waiting(what):
                yield
        except RuntimeError as error:  # a connection that broke: torch has no narrower class for gloo's
            self.is_broken = True
            raise RankError(self._why_lost(what, error)) from error

    def _why_lost(self, what: str, error: RuntimeError) -> str:
        """Which rank is missed, as far as the others know; what torch found otherwise."""
        found = self._heartbeat.wait_for_news()
        reason = found or f"The connection to another rank broke ({str(error).splitlines()[0][:200]})."
        return f"{reason} Rank {self.rank} waited for {what}. Start the run again with the same command and --resume."


def this_world() -> World:
    """The world of this process; joins the other ranks where several processes were launched.

    Raises:
        ConfigError: the launcher's variables are not those of a process group.
        RankError: the other ranks cannot be reached.
    """
    return World() if world_size() == 1 else join()


@cache
def join() -> Ranks:
    """Join the process group that a launcher has prepared.

    Raises:
        ConfigError: the launcher's variables are missing, or the port is taken.
    """
    group_store = _open_store()
    store = group_store.clone() if hasattr(group_store, "clone") else group_store
    control = dist.new_group(backend="gloo", timeout=FOREVER)
    data = control
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        data = dist.new_group(backend="nccl")
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    heartbeat = Heartbeat(store, dist.get_rank(), dist.get_world_size(), store_is_of_launcher=of_launcher)
    heartbeat.start()
    atexit.register(_part, heartbeat)
    return Ranks(dist.get_rank(), dist.get_world_size(), control, data, heartbeat)


def _open_store() -> Any:
    """The store of the process group, which is made where the program has made none."""
    if dist.is_initialized():  # by accelerate, or by the script
        return store_of_process_group()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"Found WORLD_SIZE={world_size()} in the environment and no {' and no '.join(missing)}. Start several "
            "ranks with torchrun (or accelerate launch), or one without a launcher."
        )
    try:
        store, number, size = next(rendezvous("env://", rank(), world_size(), timeout=timedelta(0, JOIN_SECONDS)))
        dist.init_process_group("gloo", store=PrefixStore("groupwise", store), rank=number, world_size=size)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConfigError(
            f"Rank {rank()} could not join the other {world_size() - 1} at {place}: {str(error).splitlines()[0]}. "
            "Where the port is taken, give another one (torchrun --master-port, or --standalone)."
        ) from error
    return store


def _part(heartbeat: Heartbeat) -> None:
    """The process ends: the others need not wait for it."""
    try:
        heartbeat.end()
        dist.destroy_process_group()
    except Exception:  # the store has gone first
        return


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in runs of one dtype and of not too many numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(t.numel() for t in bucket) + tensor.numel()
        if bucket and (size > BUCKET_NUMBERS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _sent(value: Any, otherwise: Any) -> Any:
    """The value where it can go to another process."""
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # any class may refuse
        return otherwise
    return value
