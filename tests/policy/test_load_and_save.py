"""From a folder to a model that can be trained and back to a folder that plain transformers reads."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from tiny import random_rows, tiny_model, tiny_tokenizer, with_lora
from transformers import AutoModelForCausalLM, AutoTokenizer

from groupwise.errors import ModelError
from groupwise.notes import shown_by
from groupwise.policy.load_model import (
    checkpoint_layers,
    count_parameters,
    hold_trained_weights_in_float32,
    load_model,
    load_tokenizer,
    warn_of_dropout,
)
from groupwise.policy.save import save_merged, save_policy
from groupwise.policy.trainable import add_adapter

IDS = torch.tensor([random_rows().prompt_ids[0]])
CPU = torch.device("cpu")
LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def folder(tmp_path):
    return save_policy(tiny_model().bfloat16(), tiny_tokenizer(), tmp_path / "model")


def dtypes(model):
    return {p.dtype for p in model.parameters()}


def test_weights_that_are_trained_are_float32_and_a_frozen_base_stays_as_it_is_stored(folder):
    full = load_model(str(folder), device=CPU, full=True)
    base = load_model(str(folder), device=CPU, full=False)
    assert dtypes(full) == {torch.float32}
    assert dtypes(base) == {torch.bfloat16}
    assert load_tokenizer(str(folder)).get_vocab() == tiny_tokenizer().get_vocab()


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(str(tmp_path), device=CPU, full=True)


def test_trained_weights_are_held_in_float32():
    lora = with_lora(tiny_model().bfloat16()).bfloat16()
    notes = []
    with shown_by(notes.append):
        hold_trained_weights_in_float32(lora)
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.bfloat16}
    full = tiny_model().bfloat16()
    with shown_by(notes.append):
        hold_trained_weights_in_float32(full)
    assert dtypes(full) == {torch.float32}
    assert len(notes) == 2
    with shown_by(notes.append):
        hold_trained_weights_in_float32(full)
    assert len(notes) == 2, "nothing to do, nothing to say"
    with pytest.raises(ModelError, match="requires_grad=False"), shown_by(notes.append):
        hold_trained_weights_in_float32(tiny_model().requires_grad_(False))


def test_a_fresh_adapter_follows_from_its_seed_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (add_adapter(tiny_model(), LORA, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


def test_two_adapters_at_once_are_refused():
    with pytest.raises(ModelError, match="Leave peft_config out"):
        add_adapter(with_lora(tiny_model()), LORA, seed=0)


def test_parameters_are_counted_once():
    tied = tiny_model("llama-tied")
    assert count_parameters(tied).total == sum(p.numel() for p in set(tied.parameters()))
    parameters = count_parameters(with_lora(tiny_model()))
    assert 0 < parameters.share < 1
    assert str(parameters) == (
        f"{parameters.trainable:,} of {parameters.total:,} parameters are trained ({100 * parameters.share:.2f}%)"
    )


def test_dropout_is_announced_once_and_only_where_there_is_some():
    notes = []
    with shown_by(notes.append):
        warn_of_dropout(with_lora(tiny_model()))
    assert notes == []
    with shown_by(notes.append):
        warn_of_dropout(with_lora(tiny_model(), lora_dropout=0.1))
    assert len(notes) == 1
    assert "it is 0 in every pass" in notes[0]


def test_layers_are_checkpointed_without_a_warning():
    model = tiny_model().train()
    logits = model(IDS).logits
    checkpoint_layers(model)
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    torch.testing.assert_close(model(IDS).logits, logits)


def test_an_adapter_folder_is_read_by_peft(tmp_path):
    model = with_lora(tiny_model())
    save_policy(model, tiny_tokenizer(), tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
@pytest.mark.parametrize("wrap", [with_lora, lambda m: m], ids=["lora", "full"])
def test_a_merged_folder_is_read_by_plain_transformers(tmp_path, name, wrap):
    model = wrap(tiny_model(name))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    save_merged(model, tiny_tokenizer(chat=True), tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert dtypes(loaded) == {torch.float32}
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=1e-5, atol=2e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("own", [None, "# Ours\n"])
def test_an_adapters_folder_keeps_its_own_card_and_none_of_pefts(tmp_path, own):
    if own is not None:
        (tmp_path / "README.md").write_text(own)
    model = with_lora(tiny_model())
    save_policy(model, tiny_tokenizer(), tmp_path)
    assert (tmp_path / "adapter_config.json").is_file()
    assert ((tmp_path / "README.md").read_text() if (tmp_path / "README.md").exists() else None) == own
