"""Objects that are no causal language model with its weights are refused with a sentence; whatever is one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from api_helpers import ROWS, config, model_folder, short, trainer
from tiny import CONFIGS, tiny_model, tiny_tokenizer
from torch import nn

from groupwise import GRPOTrainer
from groupwise.errors import ModelError
from groupwise.policy.save import ModelWriter
from groupwise.policy.trainable import require_causal_lm

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def of(config: Any, auto: Any) -> Any:
    return auto.from_config(config).float()


def on_meta() -> Any:
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]())


def in_inference_mode() -> Any:
    with torch.inference_mode():
        return tiny_model()


T5 = transformers.T5Config(vocab_size=64, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
OBJECTS = {
    "data parallel": (lambda: nn.DataParallel(tiny_model()), r"wrapped in DataParallel.*model\.module"),
    "classifier": (
        lambda: of(CONFIGS["llama"](), transformers.AutoModelForSequenceClassification),
        "LlamaForSequenceClassification gives no next-token probabilities",
    ),
    "token classifier": (
        lambda: of(CONFIGS["qwen2"](), transformers.AutoModelForTokenClassification),
        "gives no next-token probabilities",
    ),
    "encoder-decoder": (lambda: of(T5, transformers.AutoModelForSeq2SeqLM), "is an encoder-decoder"),
    "masked": (
        lambda: of(transformers.BertConfig(**SMALL), transformers.AutoModelForMaskedLM),
        "BertForMaskedLM gives no next-token probabilities",
    ),
    "not causal": (
        lambda: transformers.BertLMHeadModel(transformers.BertConfig(**SMALL)),
        r"BertLMHeadModel is no causal language model.*is_decoder: true",
    ),
    "base": (lambda: tiny_model().model, "LlamaModel gives no next-token probabilities"),
    "meta": (on_meta, "not in memory"),
    "inference mode": (in_inference_mode, "made inside torch.inference_mode"),
    "layer": (lambda: nn.Linear(4, 4), "Linear is not a transformers model"),
    "dict": (lambda: {"model": 1}, r"model is .* \(dict\); expected a Hub id"),
    "class": (lambda: transformers.LlamaForCausalLM, "expected a Hub id"),
}


@pytest.mark.filterwarnings("ignore:.*(is_decoder|standalone).*")
@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_no_causal_language_model_is_refused_in_the_constructor(name: str, tmp_path: Path) -> None:
    make, words = OBJECTS[name]
    with pytest.raises(ModelError, match=words):
        GRPOTrainer(make(), short, config(tmp_path / "run"), ROWS, processing_class=tiny_tokenizer())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", CONFIGS)
def test_causal_language_models_are_taken(name: str) -> None:
    require_causal_lm(tiny_model(name))


@pytest.mark.filterwarnings("ignore:.*is_decoder.*")
def test_a_bert_that_decodes_is_taken() -> None:
    require_causal_lm(transformers.BertLMHeadModel(transformers.BertConfig(**SMALL, is_decoder=True)))


def test_a_path_object_names_a_folder(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", model=model_folder(tmp_path / "base"))
    assert run.parts.policy.name == str(tmp_path / "base")


def set_flag(**flags: Any) -> Any:
    model = tiny_model()
    for name, value in flags.items():
        setattr(model.generation_config, name, value)
    return model


def unwritable_tokenizer() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.init_kwargs["made_of"] = object()
    return tokenizer


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"temperature": 0.7}, "temperature"), ({"early_stopping": True}, "early_stopping"), ({"top_k": 7}, "top_k")],
)
def test_a_model_that_cannot_be_saved_is_found_before_the_first_step(
    flags: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"(?s)could not be saved after training.*{words}.*generation_config"):
        trainer(tmp_path / "run", model=set_flag(**flags)).train()
    assert not (tmp_path / "run").exists(), "nothing was started"


def test_a_config_that_cannot_be_saved_is_found_too() -> None:
    model = tiny_model()
    model.config.made_of = object()
    with pytest.raises(ModelError, match="could not be saved after training"):
        ModelWriter(model, tiny_tokenizer())


def test_a_tokenizer_that_cannot_be_saved_is_found_too() -> None:
    with pytest.raises(ModelError, match="could not be saved after training"):
        ModelWriter(tiny_model(), unwritable_tokenizer())


def test_the_tokenizer_is_saved_once_for_all_checkpoints_and_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, folders = tiny_tokenizer(chat=True), []
    save = type(tokenizer).save_pretrained
    monkeypatch.setattr(
        type(tokenizer), "save_pretrained", lambda self, folder: folders.append(Path(folder).name) or save(self, folder)
    )
    run = trainer(tmp_path, save_steps=1, max_steps=2, rest={"processing_class": tokenizer})
    run.train()
    assert folders == ["tokenizer", ".final.tmp"]
    for name in ("checkpoint-1", "checkpoint-2", "final"):
        assert (tmp_path / name / "tokenizer.json").read_bytes() == (tmp_path / "final/tokenizer.json").read_bytes()


def test_an_error_while_saving_at_the_end_is_recorded_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path / "run", max_steps=2)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk was taken away")

    monkeypatch.setattr("groupwise.policy.save.save_policy", fail)
    with pytest.raises(OSError, match="taken away"):
        run.train()
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert '"failed"' in events
    assert "taken away" in events
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
