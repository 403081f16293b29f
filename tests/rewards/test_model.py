"""The reward model against one row at a time, with a tiny random model and a tokenizer trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from groupwise.errors import ModelError
from groupwise.rewards import RewardModel, RewardScorer, resolve_rewards

from .groups import CHAT, make_group

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
TEXTS = ["red", "a rather long answer about the colour of the sky", "", "dark blue", "green " * 12]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pairs, and a begin token that it adds unless it is told not to."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(["name a colour of the sky", "dark blue and green"], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )


def tiny_model(**settings: Any) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        **settings,
    )
    return LlamaForSequenceClassification(config)


@pytest.fixture
def model() -> LlamaForSequenceClassification:
    return tiny_model()


def score_alone(model: nn.Module, tokenizer: PreTrainedTokenizerFast, text: str) -> float:
    """The head on the hidden state of the text's last token: nothing padded, nothing batched."""
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        hidden_NPD = model.model(input_ids=ids).last_hidden_state
        return float(model.score(hidden_NPD)[0, -1, 0])


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_plain_text_is_prompt_and_completion_and_padding_changes_nothing(model, tokenizer, batch_size):
    reward = RewardModel(model, tokenizer, batch_size=batch_size)
    scores = reward(["The sky is "] * len(TEXTS), TEXTS)
    assert scores == pytest.approx([score_alone(model, tokenizer, "The sky is " + text) for text in TEXTS], abs=1e-6)
    assert len(set(scores)) == len(scores)


def test_chats_go_through_the_chat_template(model, tokenizer):
    functions = resolve_rewards([model], processing_classes=tokenizer)
    group = RewardScorer(functions).score([make_group(CHAT, TEXTS)]).groups[0]
    start = "<system>Be brief.</s>\n<user>Name a colour.</s>\n<assistant>"
    expected = [score_alone(model, tokenizer, f"{start}{text}</s>\n") for text in TEXTS]
    assert group.reward == pytest.approx(expected, abs=1e-6)
    assert list(group.rewards) == ["LlamaForSequenceClassification"]


def test_plain_and_chat_rows_may_be_mixed(model, tokenizer):
    scorer = RewardScorer(resolve_rewards([model], processing_classes=[tokenizer]))
    plain, chat = make_group("p ", TEXTS), make_group(CHAT, TEXTS, 1)
    together = scorer.score([plain, chat]).groups
    for group, alone in zip(together, [plain, chat], strict=True):
        assert group.reward == pytest.approx(scorer.score([alone]).groups[0].reward, abs=1e-6)


def test_a_missing_pad_token_is_replaced_by_the_end_token(model, tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    assert bare.pad_token_id is None
    scores = RewardModel(model, bare)(["The sky is "] * len(TEXTS), TEXTS)
    assert scores == pytest.approx(RewardModel(model, tokenizer)(["The sky is "] * len(TEXTS), TEXTS), abs=1e-6)
    assert bare.pad_token_id is None


def test_no_pad_and_no_end_token_is_an_error(model, tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        RewardModel(model, bare)(["a"], ["b"])


def test_the_model_is_in_evaluation_mode_for_the_call_and_afterwards_as_it_was(tokenizer):
    model = tiny_model(attention_dropout=0.9)
    model.train()
    model.score.eval()
    before = {name: module.training for name, module in model.named_modules()}
    reward = RewardModel(model, tokenizer)
    assert reward(["a "], ["dark blue"]) == reward(["a "], ["dark blue"])
    assert {name: module.training for name, module in model.named_modules()} == before
    assert model.config.pad_token_id is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_is_given_back_when_it_fails(tokenizer):
    class Broken(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            raise RuntimeError("out of memory")

    model = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        RewardModel(model, tokenizer)(["a"], ["b"])
    assert model.training


def test_any_module_with_logits_is_a_reward_model(tokenizer):
    class CountTokens(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
            counts = attention_mask.sum(1, dtype=torch.bfloat16)
            return SequenceClassifierOutput(logits=torch.stack([counts, -counts], dim=1))

    scores = RewardModel(CountTokens(), tokenizer, batch_size=2)(["sky "] * len(TEXTS), TEXTS)
    assert scores == [len(tokenizer("sky " + text, add_special_tokens=False).input_ids) for text in TEXTS]


def test_a_text_without_tokens_is_unscored(model, tokenizer):
    first, second = RewardModel(model, tokenizer)(["", ""], ["", "red"])
    assert first is None
    assert second == pytest.approx(score_alone(model, tokenizer, "red"), abs=1e-6)


def test_a_folder_is_loaded_at_the_first_call_with_its_own_tokenizer(model, tokenizer, tmp_path):
    folder = tmp_path / "my-reward"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (function,) = resolve_rewards(["my-reward"], folder=tmp_path)
    assert function.name == "my-reward"
    scores = RewardScorer([function]).score([make_group("sky ", TEXTS)]).groups[0].reward
    assert scores == pytest.approx(RewardModel(model, tokenizer)(["sky "] * len(TEXTS), TEXTS), abs=1e-6)


def test_a_folder_that_is_no_model_is_an_error_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve_rewards(["./empty"], folder=tmp_path)


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    scorer = RewardScorer(resolve_rewards([str(tmp_path)]))
    with pytest.raises(ModelError, match=f'reward model "{tmp_path}" cannot be loaded'):
        scorer.load()


def test_an_object_without_a_name_needs_its_tokenizer(model):
    with pytest.raises(ModelError, match="needs its tokenizer in reward_processing_classes"):
        RewardScorer(resolve_rewards([model])).load()


def test_chats_need_a_template(model, tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    with pytest.raises(ModelError, match="no chat template"):
        RewardScorer(resolve_rewards([model], processing_classes=bare)).score([make_group(CHAT, ["a"])])
