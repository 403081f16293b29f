"""What does not fit the model is refused before anything is sampled: tokens without a row, contexts too short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from api_helpers import CHATS, ROWS, trainer
from tiny import EOS, VOCABULARY, tiny_model, tiny_tokenizer

from groupwise.errors import ConfigError, DataError, ModelError
from groupwise.generate import generate
from groupwise.policy.bounds import context_length
from groupwise.types import Sampling

WITH_TOOL = [*ROWS[:3], {"prompt": "say <tool> 5", "answer": "5"}, *ROWS[3:]]
BEYOND = (
    r"the token '<tool>' has id 64, but the model's embedding has 64 rows \(ids 0 to 63\)\..*resize_token_embeddings"
)


def with_added(*tokens: str, chat: bool = True) -> Any:
    tokenizer = tiny_tokenizer(chat=chat)
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def test_a_token_beyond_the_embedding_is_told_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Row 4 of .* data: " + BEYOND):
        trainer(tmp_path, data=WITH_TOOL, rest={"processing_class": with_added("<tool>")})


def test_a_token_beyond_the_embedding_is_found_in_held_out_problems_and_system_prompts(tmp_path: Path) -> None:
    rest = {"processing_class": with_added("<tool>")}
    with pytest.raises(DataError, match=r"Row 4 of .* data: " + BEYOND):
        trainer(tmp_path, rest=rest | {"eval_dataset": WITH_TOOL})
    with pytest.raises(DataError, match=r"Row 1 of .* data: " + BEYOND):
        trainer(tmp_path, data=CHATS, rest=rest, system_prompt="use <tool>")
    run = trainer(tmp_path, rest=rest)
    with pytest.raises(DataError, match=r"Row 4 of .* data: " + BEYOND):
        run.evaluate(WITH_TOOL)


def test_a_tokenizer_of_another_model_is_told(tmp_path: Path) -> None:
    other = with_added(*(f"<|{number}|>" for number in range(200)))
    rows = [{"prompt": f"say <|{number}|>"} for number in (3, 150)]
    with pytest.raises(DataError, match=r"Row 1 of .* data: the token '<\|3\|>' has id 67"):
        trainer(tmp_path, data=rows, rest={"processing_class": other})


def test_added_tokens_that_no_prompt_holds_or_that_have_room_are_no_fault(tmp_path: Path) -> None:
    trainer(tmp_path / "unused", rest={"processing_class": with_added("<tool>")}).train()
    larger = tiny_model(vocab_size=VOCABULARY + 1)
    trainer(tmp_path / "room", model=larger, data=WITH_TOOL, rest={"processing_class": with_added("<tool>")}).train()


def test_a_token_that_was_cut_off_with_the_front_of_its_prompt_is_no_fault(tmp_path: Path) -> None:
    rows = [{"prompt": f"<tool> {row['prompt']}"} for row in ROWS]
    rest = {"processing_class": with_added("<tool>")}
    assert len(trainer(tmp_path, data=rows, rest=rest, max_prompt_length=4).parts.problems) == len(ROWS)


def test_a_head_that_samples_what_the_embedding_cannot_read_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.set_output_embeddings(torch.nn.Linear(32, VOCABULARY + 8, bias=False))
    with pytest.raises(ModelError, match=r"head has 72 rows and its embedding 64.*resize_token_embeddings\(72\)"):
        trainer(tmp_path, model=model)


def test_generate_tells_of_a_token_beyond_the_embedding_and_fills_with_one_inside() -> None:
    model, tokenizer = tiny_model(), with_added("<tool>", chat=False)
    with pytest.raises(DataError, match="In the prompt, " + BEYOND):
        generate(model, tokenizer, "say <tool>", Sampling(max_tokens=4))
    tokenizer.pad_token = "<tool>"
    model.generation_config.eos_token_id = [EOS, *range(4, 30)]  # completions end at different times
    assert len(generate(model, tokenizer, "say one", Sampling(max_tokens=12), num=4, seed=0)) == 4


SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def multimodal() -> Any:
    text = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 24}
    vision = {**SHAPE, "intermediate_size": 32, "image_size": 28, "patch_size": 14}
    ids = {"image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62, "mm_tokens_per_image": 4}
    return transformers.Gemma3Config(text_config=text, vision_config=vision, **ids)


SHORT = {
    "mpt": lambda: transformers.MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=24, vocab_size=VOCABULARY),
    "gpt 2": lambda: transformers.GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=24, vocab_size=VOCABULARY),
}


def test_the_context_of_a_text_model_inside_another_is_found() -> None:
    assert context_length(multimodal()) == 24


@pytest.mark.parametrize("name", SHORT)
def test_completions_beyond_the_context_are_refused_wherever_it_stands(tmp_path: Path, name: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(SHORT[name]())
    with pytest.raises(
        ConfigError, match=r"The longest prompt \(9 tokens\) and max_completion_length 23 need 32 tokens"
    ):
        trainer(tmp_path, model=model, max_completion_length=23)
    with pytest.raises(ConfigError, match="leaves no room for a prompt: the model's context is 24 tokens"):
        trainer(tmp_path, model=model, max_completion_length=24)
    with pytest.raises(ConfigError, match="the model's context is 24"):
        generate(model, tiny_tokenizer(), "say one", Sampling(max_tokens=23))
