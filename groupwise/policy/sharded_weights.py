"""Trained weights that no rank could hold with their gradients and moments: FSDP2 keeps them in shards.

Every rank samples, so every rank has the whole weights in the compute dtype anyway: that is the user's model, and the
fast path reads it. The float32 masters, their gradients and the optimizer's state are DTensors of FSDP2, one group for
each decoder layer and one for embedding, final norm and head. A pass with gradient runs over a second structure, whose
products read the whole weights and whose gradients go to the shards; passes without gradient need no shard at all.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from groupwise.errors import ModelError
from groupwise.policy.adapter import named_trained
from groupwise.policy.fused_linear import FusedLinearSlice, LoraPair, round_stochastically
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.shard_traffic import watch_traffic
from groupwise.transformers_internals import decoder_layers
from groupwise.world import World


class ShardedWeights:
    """The masters of a model's trained weights; `whole` is the fast path over the whole weights."""

    def __init__(
        self, model: nn.Module, whole: FusedModel, world: World, *, gradient_checkpointing: bool = False
    ) -> None:
        self.model, self.whole, self.world = model, whole, world
        self.passes = FusedModel(model, whole.dtype, gradient_checkpointing=gradient_checkpointing)
        """The structure of the passes with gradient."""
        _make_live(self.passes)
        self.mesh = world.mesh(whole.device)
        self.root = _shard(self.passes, world, self.mesh)
        held = dict(self.passes.model.named_parameters())
        self.masters: dict[str, DTensor] = {name: held[name] for name in named_trained(model)}  # type: ignore[misc]
        """Trained parameter -> its float32 values, a shard on each rank."""
        self.loaded: dict[str, Tensor] = {}
        """Trained parameter -> whole values that rank 0 has read and that the shards do not hold yet."""
        self.loaded_state: tuple[Any, dict[str, Tensor]] | None = None
        """The optimizer's state that rank 0 has read: its plain part and its whole tensors."""
        self._seeds = lower(whole, spared={id(p) for p in model.parameters() if not p.requires_grad})
        self._require_ties()
        self._borrow()

    def _require_ties(self) -> None:
        """Sharding must not make two of a tied weight: one would be trained without the other."""
        ends = [self.model, self.passes.model]
        is_tied = [each.get_input_embeddings().weight is each.get_output_embeddings().weight for each in ends]  # type: ignore[operator]
        if is_tied[0] != is_tied[1]:
            raise ModelError("Sharding has untied the embedding from the output layer. Train with shard: none.")

    @contextmanager
    def using(self, plan: Any) -> Iterator[ShardedPass]:
        """Context of a pass with gradient, which follows `plan`; hold it open around the backward pass too."""
        self._borrow()
        with self.passes.using(plan):
            yield self.root

    def _borrow(self) -> None:
        """Let the products of the passes read the whole weights: a copy of their own would double the memory."""
        for mine, theirs in zip(self.passes.linears, self.whole.linears, strict=True):
            mine.weight_OI, mine.bias_O, mine.packed, mine.panels = theirs.weight_OI, theirs.bias_O, None, theirs.panels
        self.passes.head.borrow(self.whole.head)

    @torch.no_grad()
    def spread(self) -> None:
        """Give every rank the whole weights that the masters hold now, rounded to the dtype of the model."""
        own = named_trained(self.model)
        for name, master in self.masters.items():
            target, whole = own[name], self.gathered(name, master)
            is_low = target.dtype == torch.bfloat16
            target.copy_(round_stochastically(whole, self._seeds[id(target)]) if is_low else whole)

    @torch.no_grad()
    def gathered(self, name: str, shard: DTensor) -> Tensor:
        """The whole tensor of a shard, on every rank; every rank has to call it."""
        local = shard.to_local().detach()
        length = -(-shard.shape[0] // self.mesh.size())
        padded = local.new_zeros(length, *shard.shape[1:])
        padded[: len(local)] = local
        whole = local.new_empty(length * self.mesh.size(), *shard.shape[1:])
        with self.world.collective(f"the shards of {name}"):
            dist.all_gather_single(whole, padded, group=self.mesh.get_group())
        return whole[: shard.shape[0]]

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of the gradients, over the shards of all ranks."""
        shards = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients]
        square = nn.utils.get_total_norm(shards).square()
        self.world.sum_([square], "the norm of the gradients")
        return square.sqrt()

    def odd_gradients(self) -> tuple[list[str], int]:
        """Names of the weights whose gradient is not finite on some rank, and how many are trained."""
        mine = [name for name, p in self.masters.items() if not bool(p.grad.to_local().isfinite().all())]  # type: ignore[union-attr]
        odd = {name for names in self.world.gather(mine, "the gradients that are not finite") for name in names}
        return [name for name in self.masters if name in odd], len(self.masters)

    @torch.no_grad()
    def gather(self) -> dict[str, Tensor]:
        """On rank 0 every trained weight whole, in float32; empty on the others, which have to call it too."""
        found = {}
        for name, master in self.masters.items():
            whole = self.gathered(name, master)
            if self.world.is_leader:
                found[name] = whole.cpu()
        return found

    @contextmanager
    def holding(self, whole: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the model's trained parameters are these tensors; without any it stays as it is."""
        own = named_trained(self.model)
        stand_ins = {id(own[name]): nn.Parameter(tensor) for name, tensor in whole.items()}
        places = [
            (module, name, parameter)
            for module in self.model.modules()
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
            if id(parameter) in stand_ins
        ]
        try:
            for module, name, parameter in places:
                setattr(module, name, stand_ins[id(parameter)])
            yield
        finally:
            for module, name, parameter in places:
                setattr(module, name, parameter)

    @torch.no_grad()
    def put(self, name: str, whole: Tensor) -> None:
        """Take this rank's part of a whole weight into its shard."""
        self.masters[name].to_local().copy_(part_of(whole, self.mesh))

    def cut(self, whole: Tensor) -> DTensor:
        """This rank's rows of a whole tensor as a shard of it."""
        whole = whole.contiguous()
        rows = part_of(whole, self.mesh).clone()
        return DTensor.from_local(
            rows, self.mesh, [Shard(0)], shape=whole.shape, stride=whole.stride(), run_check=False
        )


def part_of(whole: Tensor, mesh: DeviceMesh) -> Tensor:
    """This rank's rows of a whole tensor, cut as FSDP cuts."""
    length = -(-whole.shape[0] // mesh.size())
    start = min(mesh.get_local_rank() * length, whole.shape[0])
    return whole[start : start + length]


class LiveSource:
    """The source of a linear layer whose parameters FSDP swaps between shards and whole ones."""

    adapters: tuple[LoraPair, ...] = ()

    def __init__(self, layer: FusedLinearSlice) -> None:
        self._layer = layer

    @property
    def weight_OI(self) -> Tensor:
        return self._layer.weight  # type: ignore[return-value]

    @property
    def bias_O(self) -> Tensor | None:
        return self._layer.bias  # type: ignore[return-value]


def _make_live(passes: FusedModel) -> None:
    """Let the slices hold the parameters of the layers that they stand for."""
    for layer in passes.model.modules():
        if isinstance(layer, FusedLinearSlice):
            source = layer.linear.sources[layer.part]
            layer.weight = source.weight_OI
            layer.register_parameter("bias", source.bias_O)  # type: ignore[arg-type]
            layer.linear.sources[layer.part] = LiveSource(layer)  # type: ignore[call-overload]


class ShardedPass(nn.Module):
    """The call that FSDP surrounds: hidden states and head, so that the group of the ends is whole in both."""

    def __init__(self, passes: FusedModel) -> None:
        super().__init__()
        self.model = passes.model
        self._passes = (passes,)  # in a tuple: no module of this one

    def forward(self, scores: Any, *arguments: Any) -> Any:
        """What `scores(passes, *arguments)` returns; tensors in a tuple."""
        passes = self._passes[0]
        head: Any = passes.model.get_output_embeddings()  # type: ignore[operator]
        passes.head.weight_VD, passes.head.bias_V = head.weight, head.bias
        return scores(passes, *arguments)


def _shard(passes: FusedModel, world: World, mesh: DeviceMesh) -> ShardedPass:
    """One group for each decoder layer and one for the rest; gradients are summed over the ranks, not averaged."""
    root = ShardedPass(passes)
    frozen = {p for p in passes.model.parameters() if not p.requires_grad}
    parts: list[nn.Module] = [*decoder_layers(passes.backbone), root]
    for part in parts:
        fully_shard(part, mesh=mesh, ignored_params=frozen)
        part.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
        watch_traffic(part, world)
    root.set_reduce_scatter_unused_params(True)  # type: ignore[operator]  # an expert without tokens on one rank
    return root


def lower(whole: FusedModel, spared: Container[int]) -> dict[int, int]:
    """Let the linear layers of the model be views into the weights that the products read: one copy serves both.

    `spared` are the ids of the parameters that stay as they are, because they are saved from here. Returns the seeds by
    which the weights are rounded to a lower dtype, by the id of the parameter.
    """
    seeds = {}
    for linear in whole.linears:
        assert linear.weight_OI is not None
        for part, rows_OI in enumerate(linear.weight_OI.split(linear.sizes)):
            weight_OI = linear.sources[part].weight_OI
            seeds[id(weight_OI)] = linear.seed + part
            if id(weight_OI) not in spared:
                weight_OI.data = rows_OI
    return seeds
