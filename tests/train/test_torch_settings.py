"""What a program, or a function of its own, sets for all of torch changes nothing that is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import ROWS, short, trainer
from tiny import tiny_model
from torch import Tensor
from transformers import TrainerCallback

Setting = Callable[[], Any]

SETTINGS: dict[str, Setting] = {
    "no gradients": lambda: torch.set_grad_enabled(False),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    "float16": lambda: torch.set_default_dtype(torch.float16),
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}
"""What code switches on and leaves on."""

AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "another device": lambda: torch.device("meta"),
}
"""What a program wraps around a call."""


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module", params=["native", "transformers"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def usual(engine: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of the run that nothing has touched."""
    return trained(tmp_path_factory.mktemp("usual"), short, engine=engine)


def trained(folder: Path, reward: Any, *, engine: str = "auto", **rest: Any) -> dict[str, Tensor]:
    with torch.device("cpu"):
        model = tiny_model()
    rest = {"eval_dataset": ROWS[:2], **rest}
    run = trainer(folder, model=model, rewards=reward, rest=rest, engine=engine, eval_steps=1)
    run.train()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(weights: dict[str, Tensor], usual: dict[str, Tensor]) -> None:
    assert {name: w.dtype for name, w in weights.items()} == {name: w.dtype for name, w in usual.items()}
    for name, weight in weights.items():
        torch.testing.assert_close(weight, usual[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_what_a_reward_leaves_set_is_not_trained_with(
    setting: Setting, engine: str, usual: dict[str, Tensor], tmp_path: Path
) -> None:
    def careless(completions: list[str], **columns: Any) -> list[float]:
        setting()
        return short(completions)

    assert_same(trained(tmp_path, careless, engine=engine), usual)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_what_a_callback_leaves_set_is_not_trained_with(
    setting: Setting, engine: str, usual: dict[str, Tensor], tmp_path: Path
) -> None:
    class Careless(TrainerCallback):
        def on_init_end(self, *args: Any, **kwargs: Any) -> None:
            setting()

        on_step_begin = on_step_end = on_evaluate = on_init_end

    assert_same(trained(tmp_path, short, engine=engine, callbacks=[Careless()]), usual)


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_is_around_the_trainer_is_not_trained_with(
    around: Callable[[], AbstractContextManager[Any]], engine: str, usual: dict[str, Tensor], tmp_path: Path
) -> None:
    with around():
        weights = trained(tmp_path, short, engine=engine)
    assert_same(weights, usual)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_what_a_program_has_set_is_there_for_its_own_code_and_afterwards(setting: Setting, tmp_path: Path) -> None:
    def now() -> tuple[bool, torch.dtype, bool]:
        return torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled("cpu")

    seen = set()

    def watcher(completions: list[str], **columns: Any) -> list[float]:
        seen.add(now())
        return short(completions)

    setting()
    before = now()
    trained(tmp_path, watcher)
    assert seen == {before}
    assert now() == before


def test_a_name_of_a_model_can_be_trained_in_inference_mode(
    engine: str, usual: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    with torch.inference_mode():
        run = trainer(tmp_path / "run", model=str(folder), engine=engine)
        run.train()
        assert run.evaluate(ROWS[:2])["eval_reward"] is not None
    for name, p in run.model.named_parameters():
        torch.testing.assert_close(p.detach(), usual[name], rtol=0, atol=1e-6)


def test_what_the_file_of_a_reward_sets_when_it_is_loaded_is_not_trained_with(
    engine: str, usual: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "rewards.py"
    file.write_text(
        "import torch\ntorch.set_default_dtype(torch.bfloat16)\ntorch.set_grad_enabled(False)\n"
        "def short(completions, **columns):\n    return [-float(len(str(each))) for each in completions]\n"
    )
    assert_same(trained(tmp_path / "run", f"{file}:short", engine=engine), usual)
