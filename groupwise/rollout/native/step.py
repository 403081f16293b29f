"""One decode step: token ids of the rows in, hidden states out. On a GPU it is recorded once a grid and played again.

A step of few rows is hundreds of small operations; started one by one they take longer than they run. A CUDA graph
starts all of them at once, if they are the same operations on the same memory every time: so the clock is a tensor, and
caches have their full length from the beginning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from groupwise.policy.compute import ComputeModel
from groupwise.rollout.native.cache import DecodePlan, PromptCache


class Step:
    """Runs the model for one token of every row of a plan."""

    plan_class: type[DecodePlan] = DecodePlan

    def __init__(self, compute: ComputeModel, plan: DecodePlan) -> None:
        self.compute = compute
        self.plan = plan

    def run(self, ids_R: Tensor) -> Tensor:
        """Hidden states RD of the rows' next place; afterwards the clock is one further."""
        hidden_RD = self.compute.hidden(ids_R, self.plan.positions(), self.plan)
        self.plan.advance()
        return hidden_RD


class StaticPlan(DecodePlan):
    """A plan whose step is the same operations on the same memory every time, until `grow` says otherwise."""

    def __init__(self, prompts: Sequence[PromptCache], slots: int, device: torch.device, max_tokens: int) -> None:
        super().__init__(prompts, slots, device, max_tokens)
        self.clock_1 = torch.zeros(1, dtype=torch.long, device=device)

    @property
    def now(self) -> Tensor:
        return self.clock_1

    def take_rows(self, old: DecodePlan, source: Sequence[int | None]) -> None:
        super().take_rows(old, source)
        self.clock_1.fill_(self.clock)

    def advance(self) -> None:
        super().advance()
        self.clock_1 += 1

    def grow(self) -> bool:
        """Make room for the next token; whether caches have moved for it."""
        if self.own and self.own[0][0].shape[2] > self.clock:
            return False
        for index, (k, v) in enumerate(self.prompts):
            self._make_room(index, k.shape[0] // self.num_cells, (k.shape[1], v.shape[2]))
        return True

    def forget_masks(self) -> None:
        """Let the next step make its masks anew."""
        self._masks = {}

    def _put(self, cache: Tensor, new: Tensor) -> None:
        heads = new.shape[0]
        grid = cache.view(self.num_cells, heads, *cache.shape[1:])
        grid.index_copy_(3, self.clock_1, new.view(heads, self.num_cells, self.slots, 1, -1).transpose(0, 1))

    def _used(self, capacity: int) -> int:
        return capacity


class RecordedStep(Step):
    """A step over a static plan; on a GPU it is a CUDA graph, elsewhere it runs as it is."""

    plan_class = StaticPlan
    can_record = True
    """Until recording fails once."""
    WARM_UPS = 2

    def __init__(self, compute: ComputeModel, plan: DecodePlan) -> None:
        super().__init__(compute, plan)
        self._ids_R = torch.zeros(plan.num_rows, dtype=torch.long, device=plan.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._hidden_RD = torch.empty(0)

    def run(self, ids_R: Tensor) -> Tensor:
        assert isinstance(self.plan, StaticPlan)
        has_moved = self.plan.grow()
        self._ids_R.copy_(ids_R)
        if self._graph is None or has_moved:
            is_recorded = self.can_record and self.plan.device.type == "cuda"
            self._graph = self._record(self.plan) if is_recorded else None
        if self._graph is None:
            self._hidden_RD = self._compute()
        else:
            self._graph.replay()
        self.plan.advance()
        return self._hidden_RD

    def _compute(self) -> Tensor:
        return self.compute.hidden(self._ids_R, self.plan.positions(), self.plan)

    def _record(self, plan: StaticPlan) -> torch.cuda.CUDAGraph | None:
        """The step as a graph. The masks of other runs of it must not be taken for its own."""
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(self.WARM_UPS):
                    plan.forget_masks()
                    self._compute()
            torch.cuda.current_stream().wait_stream(side)
            plan.forget_masks()
            with torch.cuda.graph(graph):
                self._hidden_RD = self._compute()
        except RuntimeError as error:
            RecordedStep.can_record = False
            reason = str(error).strip().split("\n")[0]
            warnings.warn(f"Decode steps cannot be recorded as CUDA graphs ({reason}); they run slower.", stacklevel=2)
            return None
        finally:
            plan.forget_masks()
        return graph
