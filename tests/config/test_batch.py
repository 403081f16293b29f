"""The batch has one vocabulary, and the ecosystem's is translated into it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupwise.config import GRPOConfig
from groupwise.errors import ConfigError

small = st.integers(1, 6)


@given(prompts=small, generations=st.integers(2, 6), updates=small, iterations=st.integers(1, 3))
def test_both_vocabularies_say_the_same(prompts: int, generations: int, updates: int, iterations: int) -> None:
    """b completions a device x a accumulated = one update of whole groups; a rollout pays for `updates` of them."""
    shared = {"num_generations": generations, "num_iterations": iterations}
    theirs = GRPOConfig(
        per_device_train_batch_size=generations,
        gradient_accumulation_steps=prompts,
        steps_per_generation=prompts * updates,
        **shared,
    )
    ours = GRPOConfig(prompts_per_step=prompts * updates, num_minibatches=updates, **shared)
    assert theirs == ours
    assert theirs.replace(prompts_per_step=prompts * updates, num_minibatches=updates) == ours
    by_size = {"generation_batch_size": prompts * updates * generations, "steps_per_generation": None}
    assert theirs.replace(**by_size) == ours


def test_reading_their_words_gives_a_batch_of_the_same_size() -> None:
    config = GRPOConfig(prompts_per_step=6, num_generations=4, num_minibatches=2)
    again = {name: getattr(config, name) for name in ("per_device_train_batch_size", "generation_batch_size")}
    assert GRPOConfig(num_generations=4, **again) == config


@pytest.mark.parametrize("value", ["4", 4.0])
def test_numbers_that_came_as_text(value: object) -> None:
    assert GRPOConfig(per_device_train_batch_size="8", num_generations=value).prompts_per_step == 2


def test_a_batch_that_is_no_whole_number_of_groups() -> None:
    with pytest.raises(ConfigError) as caught:
        GRPOConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2, num_generations=3)
    assert str(caught.value) == (
        "GRPOConfig: per_device_train_batch_size 4 x gradient_accumulation_steps 2 = 8 completions in one optimizer "
        "step, which is not a multiple of num_generations 3. Set num_generations to 2 or 4 or 8, or the product to 6 "
        "or 9."
    )


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"per_device_train_batch_size": 16, "prompts_per_step": 3}, "makes it 2. Keep one of them."),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; expected a whole number"),
        ({"per_device_train_batch_size": "big"}, "per_device_train_batch_size is 'big'; expected a whole number"),
        ({"generation_batch_size": 24, "per_device_train_batch_size": 16}, "cannot be cut into optimizer steps of 16"),
        ({"generation_batch_size": 16, "steps_per_generation": 3}, "contradicts"),
        ({"gradient_accumulation_steps": 3, "prompts_per_step": 2}, "does not divide 16 completions"),
    ],
)
def test_a_contradiction(written: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        GRPOConfig(**written)


def test_their_steps_are_optimizer_steps() -> None:
    config = GRPOConfig(
        per_device_train_batch_size=8, steps_per_generation=2, num_iterations=2, max_steps=101, save_steps=40
    )
    assert (config.updates_per_step, config.max_steps, config.save_steps) == (4, 26, 10)
    assert "max_steps 101 optimizer steps = 26 steps of 4 updates." in config.notes
    assert GRPOConfig(num_iterations=2, max_steps=101).max_steps == 101
