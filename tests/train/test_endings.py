"""How completions end and what of them is text, through whole runs: special tokens as stop texts and as tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import CHATS, ROWS, trainer
from tiny import EOS, VOCABULARY, tiny_model, tiny_tokenizer

from groupwise.generate import generate, load_trained
from groupwise.runs import RunReader
from groupwise.types import Sampling

TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<|im_end|>", "<|call|>")
IDS = dict(zip(TAGS, range(VOCABULARY, VOCABULARY + len(TAGS)), strict=True))
END, CALL = IDS["<|im_end|>"], IDS["<|call|>"]
CLOSED = IDS["</answer>"]


def tokenizer_with_tags() -> Any:
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)})
    assert tokenizer.convert_tokens_to_ids(list(TAGS)) == list(IDS.values())
    return tokenizer


def model_fond_of(*tokens: int, by: float = 4.0) -> Any:
    """A random model that samples these tokens often, whatever stands before."""
    model = tiny_model("olmo2", vocab_size=VOCABULARY + len(TAGS))  # its last norm leaves the hidden states' size alone
    return _with_bias(model, tokens, by)


def _with_bias(model: Any, tokens: Sequence[int], by: float) -> Any:
    head = model.get_output_embeddings()
    biased = torch.nn.Linear(head.in_features, head.out_features)
    biased.weight.data, biased.bias.data = head.weight.data, torch.zeros(head.out_features)
    biased.bias.data[list(tokens)] = by
    model.set_output_embeddings(biased)
    return model


def sampled(tmp_path: Path, model: Any, **settings: Any) -> tuple[list[Any], list[str]]:
    """Every recorded completion of a run of two steps, and every text that its reward was handed."""
    seen: list[str] = []

    def look(completions: list[str], **columns: Any) -> list[float]:
        seen.extend(completions)
        return [float(len(text)) for text in completions]

    rest = {"processing_class": tokenizer_with_tags(), "eval_dataset": ROWS[:2]}
    run = trainer(tmp_path / "run", model=model, rewards=look, rest=rest, max_completion_length=24, **settings)
    run.train()
    reader = RunReader(tmp_path / "run")
    groups = [group for step in reader.completion_steps() for group in reader.completions(step)]
    return [record for group in groups for record in group["completions"]], seen


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_a_stop_text_that_is_a_special_token_ends_a_completion_and_is_no_text(tmp_path: Path, engine: str) -> None:
    records, seen = sampled(tmp_path, model_fond_of(END), stop=["<|im_end|>"], engine=engine)
    ended = [record for record in records if END in record["ids"]]
    assert ended
    assert all(record["ids"].index(END) == len(record["ids"]) - 1 for record in ended)
    assert {record["stop_reason"] for record in ended} == {"stop"}
    assert not any("<|im_end|>" in record["text"] for record in records)
    assert [record["text"] for record in records] == seen[: len(records)]


@pytest.mark.parametrize(
    ("stop", "ids"), [("</answer>", [CLOSED]), ("</answer><|im_end|>", [CLOSED, END]), ("a<|call|>", [4, CALL])]
)
def test_a_stop_text_with_tags_ends_a_completion_and_stays_in_the_text(
    tmp_path: Path, stop: str, ids: list[int]
) -> None:
    records, _ = sampled(tmp_path, model_fond_of(*ids), stop=[stop])
    held = [record for record in records if stop in record["text"]]
    assert held
    assert all(record["text"].endswith(stop) and record["text"].count(stop) == 1 for record in held)
    assert {record["stop_reason"] for record in held} == {"stop_string"}
    for record in records:
        pairs = [record["ids"][i : i + len(ids)] for i in range(len(record["ids"]))]
        assert ids not in pairs[: -len(ids)], "none goes on after it"


def test_rewards_records_and_evaluations_hold_the_tags_and_not_the_end(tmp_path: Path) -> None:
    records, seen = sampled(tmp_path, model_fond_of(CALL, EOS, 0, 2), eval_on_start=True, eval_steps=1)
    texts = [record["text"] for record in records]
    for record in records:
        assert record["text"].count("<|call|>") == record["ids"].count(CALL)
    assert any("<|call|>" in text for text in texts)
    assert not any(word in text for text in seen for word in ("<eos>", "<pad>", "<bos>"))
    assert len(seen) > len(texts), "evaluations are scored too"
    assert any("<|call|>" in text for text in seen)


def test_a_run_answers_with_its_own_end_tokens_and_prints_its_tags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from groupwise.generate import make_streamer

    sampled(tmp_path, tiny_model(vocab_size=VOCABULARY + len(TAGS)), stop=["<|im_end|>"])
    trained, tokenizer = load_trained(str(tmp_path / "run"), device=torch.device("cpu"))
    assert trained.generation_config.eos_token_id == [EOS, END]
    _with_bias(trained, [END, CALL], 8.0)
    texts = generate(trained, tokenizer, "say one", Sampling(max_tokens=40), num=8, seed=1)
    assert any("<|call|>" in text for text in texts)
    assert not any("<|im_end|>" in text for text in texts)
    capsys.readouterr()
    greedy = Sampling(max_tokens=40, temperature=0)
    _with_bias(trained, [CALL], 20.0)
    (text,) = generate(trained, tokenizer, "say one", greedy, streamer=make_streamer(trained, tokenizer))
    assert text == "<|call|>" * 40
    assert capsys.readouterr().out == text + "\n"


def test_a_stop_text_of_many_bytes_is_found() -> None:
    from test_chat import make_tokenizer

    from groupwise.chat import completion_decoder
    from groupwise.rollout.sequences import new_sequences
    from groupwise.types import Request

    stop = "🙂" * 20  # four tokens each
    tokenizer = make_tokenizer()
    sampling = Sampling(stop=(stop,), max_tokens=200)
    (row,) = new_sequences(0, Request((5,), 1, sampling, decode=completion_decoder(tokenizer, sampling)))
    for token in tokenizer.encode("so: " + stop, add_special_tokens=False):
        assert not row.is_finished
        row.append(token, -1.0, None)
    assert row.stop_reason == "stop_string"


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}/{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant/{% endif %}"
)


def remarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: Any, model: Any = None, **settings: Any
) -> str:
    """What a trainer says while it is made."""
    data = settings.pop("data", CHATS)
    policy = model or tiny_model(vocab_size=VOCABULARY + len(TAGS))
    trainer(tmp_path, model=policy, data=data, rest={"processing_class": tokenizer}, **settings)
    return " ".join(capsys.readouterr().out.split())


def without_end(tokenizer: Any, model: Any) -> tuple[Any, Any]:
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    return tokenizer, model


def test_a_model_without_an_end_token_is_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, model = without_end(tiny_tokenizer(chat=True), tiny_model())
    said = remarks(tmp_path, capsys, tokenizer, model, data=ROWS)
    assert "The model has no end token, so every completion runs to max_completion_length (6 tokens)." in said
    assert "stop: [TEXT]" in said
    assert "no end token" not in remarks(tmp_path, capsys, tokenizer, model, stop=["."])
    model.generation_config.eos_token_id = EOS
    assert "no end token" not in remarks(tmp_path, capsys, tokenizer, model)


def test_an_end_token_that_the_head_cannot_sample_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, model = without_end(tokenizer_with_tags(), tiny_model())
    tokenizer.eos_token = "<|im_end|>"
    said = remarks(tmp_path, capsys, tokenizer, model)
    assert "The end token '<|im_end|>' (id 68) is never sampled: the model's head has 64 rows." in said
    assert "The model has no end token" in said


def test_turns_that_end_in_no_end_token_are_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tokenizer_with_tags()
    tokenizer.chat_template = TEMPLATE
    told = "The chat template ends the assistant's turns with '<|im_end|>', which is no end token of this model"
    said = remarks(tmp_path, capsys, tokenizer)
    assert told in said
    assert "Set stop: ['<|im_end|>'] to end them there." in said
    assert told not in remarks(tmp_path, capsys, tokenizer, stop=["<|im_end|>"])
    assert told not in remarks(tmp_path, capsys, tokenizer, stop=["<|im_end|>\n"])
    assert told not in remarks(tmp_path, capsys, tokenizer, data=ROWS), "plain prompts have no turns"
    tokenizer.eos_token = "<|im_end|>"
    assert told not in remarks(tmp_path, capsys, tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('tools only') if messages|length > 1 else messages[0]['content'] }}",
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
    ],
)
def test_turns_that_end_otherwise_are_no_remark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str
) -> None:
    tokenizer = tokenizer_with_tags()
    tokenizer.chat_template = template
    assert "turns" not in remarks(tmp_path, capsys, tokenizer)
