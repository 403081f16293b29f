"""Mistakes are named at once, all together and in plain words."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from groupwise.algo.axes import CHOICES
from groupwise.algo.presets import PRESETS
from groupwise.config import GRPOConfig, Recipe
from groupwise.config.fields import branches_of
from groupwise.config.mistakes import MAPPINGS
from groupwise.config.names import OPTIMIZERS, SCHEDULERS, TRACKERS
from groupwise.config.normalize import _DTYPES
from groupwise.config.recipe import RecipeFields
from groupwise.config.settings import Settings
from groupwise.config.specs import Spec
from groupwise.config.yaml_file import parse
from groupwise.errors import ConfigError, nearest


def message(**written: object) -> str:
    with pytest.raises(ConfigError) as caught:
        GRPOConfig(**written)
    return str(caught.value)


def test_an_unknown_key_gets_the_nearest_one() -> None:
    assert message(learning_rte=1) == 'GRPOConfig: unknown key "learning_rte". Did you mean "learning_rate"?'


def test_an_unknown_loss_gets_the_nearest_one() -> None:
    assert 'Did you mean "grpo"?' in message(loss_type="gpro")
    assert 'Did you mean "dapo"?' in message(objective="dapoo")
    assert 'Did you mean "objective.epsilon_high"?' in message(objective={"preset": "dapo", "epsilon_hihg": 1})


def choices() -> dict[str, set[str]]:
    """Key whose value is one of a list -> every spelling of its values."""
    spellings = {"dtype": set(_DTYPES), "optim": {s for each in OPTIMIZERS.values() for s in each}}
    listed = {"lr_scheduler_type": set(SCHEDULERS), "report_to": set(TRACKERS), "objective": set(PRESETS)}
    axes = {axis: {v for v in values if isinstance(v, str)} for axis, values in CHOICES.items()}
    fields = {name: branches_of(field.annotation)[0] for name, field in Settings.model_fields.items()}
    literals = {name: set(get_args(kind)) for name, kind in fields.items() if get_origin(kind) is Literal}
    return {**literals, **axes, **listed, **spellings}


@pytest.mark.parametrize("key", choices())
def test_what_a_value_might_have_meant_is_among_those_that_are_listed(key: str) -> None:
    num_hints = 0
    for word in sorted(choices()[key]):
        for slip in (word[:2] + word[3:], word[0] + word[2:3] + word[1] + word[3:], f"{word}s"):
            if slip in choices()[key]:
                continue
            text, _, rest = message(**{key: slip}).partition(" Did you mean ")
            question, _, after = rest.partition("?")
            listed = set(re.findall(r"[\w-]+", text + after))
            hints = re.findall(r'"(.+?)"', question)
            assert set(hints) <= listed, (slip, text, question)
            num_hints += len(hints)
    assert num_hints


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("max_lenght", '"max_completion_length", "max_prompt_length" or "max_length"'),
        ("completion_length", '"max_completion_length"'),
        ("epsilom", '"epsilon"'),
        ("save_step", '"save_steps"'),
        ("lr", '"learning_rate"'),
        ("batch_size", '"prompts_per_step"'),
    ],
)
def test_what_people_set_goes_before_what_only_looks_alike(word: str, meant: str) -> None:
    assert message(**{word: 64}) == f'GRPOConfig: unknown key "{word}". Did you mean {meant}?'


def test_a_recipe_offers_its_own_keys_too() -> None:
    with pytest.raises(ConfigError, match=r'unknown key "dataset"\. Did you mean "data"'):
        Recipe(dataset="python-docs")
    with pytest.raises(ConfigError, match='Did you mean "max_completion_length", "max_prompt_length" or "max_length"'):
        Recipe(max_lenght=64)


def test_swapped_letters_are_one_slip_and_ties_are_offered_together() -> None:
    assert 'unknown objective "gpro". Did you mean "grpo"? Known' in message(objective="gpro")
    assert 'Did you mean "grpo", "gspo" or "gmpo"?' in message(objective="gppo")
    assert nearest("abdc", ["abxc", "abcd", "abd"]) == ["abcd", "abxc", "abd"]
    assert nearest("zz", {"beta", "alpha"}) == []


def test_all_problems_come_together() -> None:
    text = message(learning_rte=1, temperature=0, loss_type="gpro", beta=-1, report_to="wanbd", fp16=True)
    assert text.startswith("GRPOConfig: 6 problems\n  - ")
    for word in ("learning_rte", "temperature is 0", "loss_type", "beta is -1", "wanbd", "fp16"):
        assert word in text


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"temperature": 0}, "temperature is 0; expected a number above 0."),
        ({"temperature": float("nan")}, "temperature is nan; expected a finite number."),
        ({"top_p": 7}, "top_p is 7; expected a number of at most 1."),
        ({"learning_rate": True}, "learning_rate is True; expected a number."),
        ({"max_steps": True}, "max_steps is True; expected a whole number."),
        ({"max_steps": 1.5}, "max_steps is 1.5; expected a whole number."),
        ({"max_steps": 0}, "max_steps is 0; expected at least 1, or -1"),
        ({"num_iterations": 0}, "num_iterations is 0; expected a number of at least 1."),
        ({"max_completion_length": "long"}, "max_completion_length is 'long'; expected a whole number."),
        ({"shuffle_dataset": "maybe"}, "shuffle_dataset is 'maybe'; expected true or false."),
        (
            {"chat_template_kwargs": 3},
            "chat_template_kwargs is 3; expected a mapping such as {enable_thinking: false}.",
        ),
        ({"reward_weights": [1, "x"]}, "reward_weights.1 is 'x'; expected a number."),
        ({"save_strategy": "stpes"}, 'expected one of "no", "steps" or "epoch". Did you mean "steps"?'),
        ({"save_strategy": "best"}, 'save_strategy "best" follows a metric'),
        ({"save_steps": 0.5}, "save_steps is 0.5, a share of the run; write a number of steps."),
        ({"output_dir": "runs/" + "a" * 300}, "output_dir is 'runs/aaa"),
        ({"output_dir": "runs/a\0b"}, "no folder can be called so"),
        ({"output_dir": "runs/gr\udce9po"}, "no folder can be called so"),
        ({"output_dir": "~nobody-of-this-name/runs"}, "no folder can be called so"),
        ({"engine": "nativ"}, 'Did you mean "native"?'),
        ({"optim": "lion_8bit"}, "GRPOTrainer(optimizers=(optimizer, scheduler))"),
        ({"optim": "adamw_8bits"}, 'Did you mean "adamw_8bit"?'),
        ({"lr_scheduler_type": "cosin"}, 'Did you mean "cosine"?'),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "follows a metric"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "needs min_lr or min_lr_rate"),
        ({"dtype": "float16"}, "use bfloat16"),
        ({"dtype": "int4"}, "expected auto, bfloat16 or float32"),
        ({"fp16": True}, "use bf16=True"),
        ({"hub_token": "secret"}, "hf auth login"),
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "Keep one of them."),
        ({"sync_ref_model": True, "beta": 0}, "sync_ref_model needs a reference"),
        ({"ref_model_reset_steps": 9, "beta": 0}, "ref_model_reset_steps needs a reference"),
        ({"num_generations": 1}, "2 or more"),
        ({"prompts_per_step": 3, "num_minibatches": 2}, "make it a multiple"),
        ({"objective": "nanochat", "num_iterations": 2}, "anchor self"),
        ({"objective": 3}, "expected the name of an algorithm or a mapping"),
        ({"epsilon": "wide"}, "epsilon is 'wide'; expected a number."),
        ({"epsilon": 0.1, "epsilon_low": 0.2}, "epsilon_low is 0.2, but other keys make it 0.1."),
        ({"loss_type": "bnpo", "aggregation": "constant"}, "aggregation is 'constant', but other keys"),
        ({"loss_type": "cispo", "epsilon_high": 0.3}, "weight_max 0.3"),
        ({"bf16": True, "dtype": "float32"}, "dtype is 'float32', but bf16 makes it 'auto'."),
        ({"generation_kwargs": {"num_beams": 4}}, "generation_kwargs.num_beams"),
        ({"generation_kwargs": {"temperature": 0.5}, "temperature": 1.0}, "Keep one of them."),
        ({"model_init_kwargs": {"quantization_config": object()}}, "pass the loaded object instead"),
    ],
)
def test_a_wrong_value(written: dict[str, object], sentence: str) -> None:
    assert sentence in message(**written)


def test_no_message_speaks_pydantic() -> None:
    text = message(temperature="warm", seed=[], report_to=3, stop=3, num_generations={}, lr_scheduler_kwargs="x")
    for word in ("pydantic", "input_value", "type=", "validation error", "something else"):
        assert word not in text


@pytest.mark.parametrize("name", ["list", "int", "x[1]"])
def test_a_name_that_is_also_a_type_keeps_its_place(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"rewards.0.when.{name} is 'x'; expected a number.")):
        Recipe(rewards=[{"name": "length", "target": 4, "when": {name: "x"}}])


def test_a_configuration_that_a_trainer_has_is_read_only() -> None:
    config = GRPOConfig()
    config.freeze()
    with pytest.raises(ConfigError, match=r"a trainer has this .*: args = args.replace\(seed=3\)"):
        config.seed = 3
    assert config.seed == 42
    assert config.replace(seed=3).seed == 3


def test_one_completion_a_group_is_explained_in_plain_words() -> None:
    text = message(num_generations=1)
    assert "num_generations is 1, so a completion would have no others to be compared with" in text
    assert "Set it to 2 or more" in text


@pytest.mark.parametrize(("word", "key"), [("rank", "r"), ("alpha", "lora_alpha"), ("dropout", "lora_dropout")])
def test_another_librarys_word_for_a_key_of_the_adapter_is_understood(word: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f'lora: unknown key "{word}". Did you mean "{key}"'):
        Recipe(lora={word: 8})


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"generation_kwargs": {"no_repeat_ngram_size": 2}}, "generation_kwargs.no_repeat_ngram_size is not supported"),
        ({"generation_kwargs": {"length_penalty": 1.2}}, "beam search looks for one likely text"),
        ({"generation_kwargs": {"max_tokens": 9}}, "set max_completion_length"),
        ({"report_to": "mlflow"}, "GRPOTrainer(callbacks=[MLflowCallback()])"),
        ({"report_to": ["swanlab"]}, "from transformers.integrations import SwanLabCallback"),
    ],
)
def test_a_known_word_of_another_library_has_its_own_answer(written: dict[str, object], sentence: str) -> None:
    text = message(**written)
    assert sentence in text
    assert "Did you mean" not in text


def test_the_callbacks_that_stand_in_for_trackers_exist() -> None:
    from transformers import integrations

    from groupwise.config.compat.hints import TRACKERS

    assert [name for name in TRACKERS.values() if not hasattr(integrations, name)] == []


def test_generation_arguments_that_ask_for_nothing_are_taken() -> None:
    asks_for_nothing = {"do_sample": True, "num_beams": 1, "no_repeat_ngram_size": 0, "use_cache": True}
    assert GRPOConfig(generation_kwargs=asks_for_nothing) == GRPOConfig()


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("dataset_name", 'Did you mean "data"?'),
        ("use_peft", 'Did you mean "lora"?'),
        ("lora_r", 'Did you mean "lora.r"?'),
        ("model_name_or_path", 'Did you mean "model"?'),
        ("base_model", 'Did you mean "model"?'),
        ("wandb_project", "set WANDB_PROJECT in the environment"),
        ("load_in_4bit", "quantization_config"),
    ],
)
def test_keys_of_other_libraries_files(key: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=f'unknown key "{key}"') as caught:
        Recipe(**{key: "x"})
    assert answer in str(caught.value)


def test_every_hint_names_a_key() -> None:
    from groupwise.config.compat.hints import RECIPE_KEYS
    from groupwise.config.compat.translate import KNOWN_KEYS
    from groupwise.config.recipe import RecipeFields

    known = {*KNOWN_KEYS, *RecipeFields.model_fields}
    assert {hint.partition(".")[0] for hint in RECIPE_KEYS.values()} <= known
    assert not RECIPE_KEYS.keys() & known


def mappings(fields: Mapping[str, FieldInfo], path: str = "") -> Iterator[str]:
    """Every key of a recipe whose value is a mapping, with a dot where it stands in one."""
    for name, field in fields.items():
        for kind in branches_of(field.annotation):
            inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
            if get_origin(inner) is dict:
                yield path + name
            elif isinstance(inner, type) and issubclass(inner, Spec):
                yield path + name
                yield from mappings(inner.model_fields, f"{path}{name}.")


def test_every_key_that_takes_a_mapping_has_an_example_of_a_right_one() -> None:
    names = [*mappings(RecipeFields.model_fields), *mappings(Settings.model_fields)]
    assert {"lora", "rewards.when", "lr_scheduler_kwargs"} <= set(names)
    for name in names:
        key = name.rpartition(".")[2]
        wrong: Any = {"name": "length", key: 3} if name.startswith("rewards.") else {key: 3}
        wrong = {name.partition(".")[0]: wrong if "." in name else 3}
        with pytest.raises(ConfigError, match=r"expected a mapping such as \{") as caught:
            Recipe(**wrong)
        example = str(caught.value).partition("such as ")[2].partition("}, or")[0].removesuffix(".")
        assert isinstance(parse(example if example.endswith("}") else example + "}"), dict)
    for key in ("data", "lora", "lr_scheduler_kwargs", "model_init_kwargs", "chat_template_kwargs"):
        Recipe(**{key: parse(MAPPINGS[key].partition(", or")[0])})
    Recipe(rewards=[parse(MAPPINGS["rewards"])])
    Recipe(task=parse(MAPPINGS["task"]))
