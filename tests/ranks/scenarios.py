"""What the ranks of a launch run; each scenario takes a folder and an argument, and returns plain JSON."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from groupwise import GRPOConfig, GRPOTrainer
from groupwise.environments import Observation, Reply
from groupwise.launch import rank
from groupwise.lifecycle.memory_plan import Machine, plan_memory
from groupwise.ranks import this_world
from groupwise.runs.folder import RunFolder
from groupwise.train.learner import Learner
from tests.faults import kill
from tests.histories import StopAfter
from tests.tiny import tiny_model, tiny_tokenizer, with_lora

PROMPTS = ("hello there", "what is", "one two three", "abc", "a", "bb cc dd", "the end of it")
SETTINGS: dict[str, Any] = {
    "prompts_per_step": 3,
    "num_generations": 4,
    "max_completion_length": 12,
    "max_steps": 3,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "constant",
    "dtype": "float32",
    "num_iterations": 2,
    "num_minibatches": 3,
    "report_to": "none",
    "seed": 3,
    "save_strategy": "no",
}


PLAYED: dict[str, Any] = {
    "max_completion_length": 60,
    "max_turn_length": 5,
    "num_iterations": 1,
    "num_minibatches": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
}


SERVED: dict[str, Any] = {"max_completion_length": 6, "num_iterations": 1, "num_minibatches": 1}


def reward(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    """Long completions of many letters; it counts its calls, and has to be called on rank 0 alone."""
    assert rank() == 0
    return [len(set(text)) / 10 + text.count("e") for text in completions]


def sparse_reward(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    """Often the same for a whole group: dynamic sampling draws again."""
    return [float("ee" in text or "a" in text[:2]) for text in completions]


def make_trainer(folder: Path, settings: dict[str, Any] | None = None, *, lora: bool = False) -> GRPOTrainer:
    settings = dict(settings or {})
    name = settings.pop("model", "llama")
    function = sparse_reward if settings.pop("is_sparse", False) else reward
    environment = settings.pop("environment", None)
    model = with_lora(tiny_model(name), is_learnt=False) if lora else tiny_model(name)
    args = GRPOConfig(output_dir=str(folder / "run"), **{**SETTINGS, **settings})
    held_out = [{"prompt": "held out"}, {"prompt": "and more"}]
    rows = [{"prompt": text} for text in PROMPTS]
    rest = {"processing_class": tiny_tokenizer(), "environment": environment}
    return GRPOTrainer(model, None if environment else function, args, rows, held_out, **rest)


class Letters:
    """Worth the letters of each turn; what it answers depends on the reply and on its own dice."""

    dies_at = 0
    """Number of the step of its environments at which this process is killed."""
    num_steps = 0

    def reset(self, problem: Any, seed: int) -> Any:
        self.dice, self.turn = random.Random(seed), 0
        return f" begin {self.dice.randint(0, 9)}"

    async def step(self, reply: Reply) -> Observation:
        Letters.num_steps += 1
        if Letters.num_steps == Letters.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.turn += 1
        came_back = [{"role": "user", "content": f"{reply.text[:3]} {self.dice.randint(0, 9)}"}]
        return Observation(came_back, reward=float(len(set(reply.text))), done=self.turn > 2)

    def close(self) -> None:
        pass


def plays(folder: Path, settings: dict[str, Any]) -> Any:
    """A run with an environment; the weights of every rank go into files."""
    settings = dict(settings)
    if settings.pop("kill", None) == rank():
        Letters.dies_at = 20
    resume = settings.pop("resume", False)
    trainer = make_trainer(folder, {**PLAYED, **settings, "environment": Letters})
    trainer.train(resume_from_checkpoint=resume or None)
    torch.save(dict(trainer.model.state_dict()), folder / f"weights-{rank()}.pt")
    return trainer.state.global_step


def serves(folder: Path, settings: dict[str, Any]) -> Any:
    """A run whose completions are those of a fake server."""
    settings = dict(settings)
    lora, resume, stop = settings.pop("lora", True), settings.pop("resume", None), settings.pop("stop", 0)
    with fake_server(folder) as url:
        given = {"servers": [url], "mismatch": "token_truncate", "server_timeout": 30, **SERVED, **settings}
        given |= {"environment": Letters} if given.pop("plays", False) else {}
        trainer = make_trainer(folder, given, lora=lora)
        trainer.add_callback(StopAfter(stop))
        trainer.train(resume_from_checkpoint=resume)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    torch.save(weights, folder / f"weights-{rank()}.pt")
    return trainer.state.global_step


@contextmanager
def fake_server(folder: Path) -> Iterator[str]:
    """The address of a server in the process of rank 0; the others find it in a file."""
    address = folder / f"address-{os.environ.get('MASTER_PORT', 'alone')}"
    if rank():
        while not address.is_file():
            time.sleep(0.05)
        yield address.read_text()
        return
    sys.path.append(str(Path(__file__).parent.parent))  # where the tests of servers find what they import
    from tests.rollout.served.fake import FakeServer

    with FakeServer(tiny_model("llama")) as fake:
        scratch = address.with_suffix(".tmp")
        scratch.write_text(fake.url)
        scratch.rename(address)
        yield fake.url
        assert set(fake.models) == {fake.name}, "what was published is unloaded"


def trains(folder: Path, settings: dict[str, Any]) -> Any:
    """A whole run; the weights of every rank go into files."""
    settings = dict(settings)
    lora, resume = settings.pop("lora", False), settings.pop("resume", None)
    trainer = make_trainer(folder, settings, lora=lora)
    output = trainer.train(resume_from_checkpoint=resume or None)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    torch.save(weights, folder / f"weights-{rank()}.pt")
    return {"step": output.global_step, "num_entries": len(trainer.state.log_history), "size": trainer.world.size}


def lives_on(folder: Path, settings: dict[str, Any]) -> Any:
    """A run that begins, or goes on with what an earlier launch has left; returns how often rank 0 changed the disk."""
    settings = dict(settings)
    victim, die_at = settings.pop("victim", None), settings.pop("die_at", None)
    this_world()
    if victim == rank():
        kill.enter("starting")
        kill.follow_phases()
    changes = kill.Boundaries(die_at if victim == rank() else None)
    scenario = plays if settings.pop("environment", False) else trains
    scenario(folder, {**settings, "resume": RunFolder(folder / "run").is_run})
    return changes.count


def holds(folder: Path, settings: dict[str, Any]) -> Any:
    """Bytes that this rank holds after a step, and those of its plan."""
    trainer = make_trainer(folder, settings)
    trainer.train()
    policy = trainer.parts.policy.policy_model
    plan = plan_memory(trainer.model, trainer.parts.config, Machine(trainer.world.size, policy.device, policy.dtype))
    return {"plan": dict(plan.parts), "held": held_bytes(trainer)}


def held_bytes(trainer: GRPOTrainer) -> dict[str, int]:
    """Of weights, shards, gradients and, on rank 0, the optimizer's state: each memory once."""
    policy = trainer.parts.policy.policy_model
    optimized = policy.optimized
    state = [] if trainer.optimizer is None else trainer.optimizer.state.values()
    sharded = [] if policy.sharded is None else list(policy.sharded.masters.values())
    passes = [] if policy.sharded is None else policy.sharded.passes.tensors()
    return {
        "weights": _bytes([*trainer.model.parameters(), *policy.fused.tensors(), *passes]) - _bytes(sharded),
        "float32 shards": _bytes(sharded),
        "gradients": _bytes([p.grad for p in optimized if p.grad is not None]),
        "optimizer": _bytes([t for each in state for t in each.values() if t.dim()]),
    }


def _bytes(tensors: Any) -> int:
    storages = {}
    for tensor in tensors:
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def resumes(folder: Path, settings: dict[str, Any]) -> Any:
    """The same run from its newest checkpoint."""
    trainer = make_trainer(folder, settings)
    trainer.train(resume_from_checkpoint=True)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    torch.save(weights, folder / f"weights-{rank()}.pt")
    return trainer.state.global_step


def shares(folder: Path, argument: Any) -> Any:
    """Objects, tensors and sums between the ranks."""
    world = this_world()
    found = world.share({"from": 0} if world.is_leader else None, "a value")
    gathered = world.gather(world.rank * 10, "numbers")
    tensors = [torch.full((3,), float(world.rank + 1)), torch.ones(2, 2), torch.full((1,), 0.1)]
    world.sum_(tensors, "a sum")
    mine = [torch.full((2,), float(world.rank))]
    world.share_tensors(mine, "tensors")
    return {"shared": found, "gathered": gathered, "sums": [t.tolist() for t in tensors], "taken": mine[0].tolist()}


def evaluates(folder: Path, argument: Any) -> Any:
    """Every rank calls what a script calls, and gets the same."""
    trainer = make_trainer(folder, argument)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    path = trainer.save_model(str(folder / "saved"))
    trainer.save_metrics("eval", after)
    trainer.accelerator.wait_for_everyone()
    names = sorted(file.name for file in Path(path).iterdir())
    flags = [trainer.is_world_process_zero(), trainer.accelerator.is_main_process, trainer.accelerator.num_processes]
    rewards = [before["eval_reward"], after["eval_reward"]]
    return {"rewards": rewards, "files": names, "flags": flags, "log": len(trainer.state.log_history)}


def fails(folder: Path, fault: dict[str, Any]) -> Any:
    """A run in which one rank meets a fault in the update of a step."""
    if fault["kind"] == "other settings" and rank() == fault["rank"]:
        trainer = make_trainer(folder, {"learning_rate": 3e-3})
        return trainer.train().global_step
    if fault["kind"] == "other weights" and rank() == fault["rank"]:
        torch.nn.init.normal_ = _shifted(torch.nn.init.normal_)
    _break_update(fault)
    trainer = make_trainer(folder, {"save_strategy": "steps", "save_steps": 1, "max_steps": 6, **fault.get("with", {})})
    return trainer.train(resume_from_checkpoint=fault.get("resume") or None).global_step


def _shifted(init: Any) -> Any:
    def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return init(tensor, *args, **kwargs).add_(1e-3)

    return call


def _break_update(fault: dict[str, Any]) -> None:
    original = Learner._optimizer_step

    def step(learner: Learner, *arguments: Any) -> Any:
        if rank() == fault["rank"] and learner.num_rollouts + 1 == fault["step"]:
            _act(fault["kind"], learner)
        return original(learner, *arguments)

    Learner._optimizer_step = step  # type: ignore[method-assign]


def _fill(tensor: Any, value: float) -> None:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    local.view(-1)[:1].fill_(value)


def _act(kind: str, learner: Learner) -> None:
    if kind == "raises":
        raise ValueError("this pass cannot be computed")
    if kind == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "hangs":
        time.sleep(10_000)
    if kind == "drifts":
        learner.trained[0].data.add_(1e-3)
    if kind == "overflows":
        pad = learner._pad
        learner._pad = lambda *arguments: (pad(*arguments), _fill(learner.trained[0].grad, float("inf")))  # type: ignore[method-assign, assignment]
    if kind == "diverges":
        learner.trained[0].data.fill_(float("nan"))
