"""One builder: what is checked is what is trained, to the token and to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import CHATS, model_folder, write_recipe
from tiny import tiny_tokenizer

from groupwise import GRPOTrainer
from groupwise.config import load_recipe, replaced
from groupwise.lifecycle.build import RunParts, build, make_order
from groupwise.lifecycle.inputs import read_inputs
from groupwise.policy.policy_model import Scoring
from groupwise.sources import ModelFiles
from groupwise.train.batch import rows_of

REVISION = "v2"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose revisions differ in weights and in the tokenizer's template, as repositories of the Hub do."""
    folders = {
        None: model_folder(tmp_path / "main", seed=1),
        REVISION: model_folder(tmp_path / "v2", seed=2),
    }
    template = folders[REVISION] / "chat_template.jinja"
    template.write_text(template.read_text().replace("a/", "b/"))

    def resolve(name: str, *, revision: str | None = None) -> ModelFiles:
        return ModelFiles("hub", str(folders[revision]), name)

    monkeypatch.setattr("groupwise.policy.load_model.resolve_model", resolve)
    path = write_recipe(
        tmp_path / "recipe.yaml",
        folders[None],
        model="owner/name",
        model_init_kwargs={"revision": REVISION},
        system_prompt="be brief",
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    return load_recipe(path)


def first_step(parts: RunParts) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], torch.Tensor]:
    """Prompt ids, sampled ids and the learner's log-probs of the groups that step 1 draws."""
    parts.policy.policy_model.refresh()
    parts.engine.load_weights(parts.policy.policy_model, version=0)
    draws = make_order(parts.problems, parts.config).draw()
    groups = parts.sampler.sample(draws, parts.config.num_generations, step=1)
    logprob_NT = parts.policy.policy_model.score(rows_of(groups), Scoring()).logprob_NT
    return [g.prompt_ids for g in groups], [c.token_ids for g in groups for c in g.completions], logprob_NT


def test_check_and_training_tokenize_and_score_alike(recipe: Any, tmp_path: Path) -> None:
    trained = GRPOTrainer.from_recipe(recipe, folder=tmp_path).parts
    checked = build(read_inputs(recipe, tmp_path))
    found, expected = first_step(checked), first_step(trained)
    assert found[:2] == expected[:2]
    assert torch.equal(found[2], expected[2])
    text = trained.policy.tokenizer.decode(trained.problems[0].prompt_ids)
    assert text.endswith("b/"), "the tokenizer is that of the revision"


def test_a_tokenizer_of_its_own_name_is_trusted_as_the_model_is(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool, Any]] = []

    def load(name: str, *, trust_remote_code: bool, init_kwargs: Any = None) -> Any:
        seen.append((name, trust_remote_code, init_kwargs))
        return tiny_tokenizer(chat=True)

    monkeypatch.setattr("groupwise.lifecycle.build.load_tokenizer", load)
    inputs = read_inputs(recipe, tmp_path)
    trusting = replaced(inputs.config, trust_remote_code=True)
    build(replace(inputs, config=trusting, tokenizer="owner/tokenizer"))
    assert seen == [("owner/tokenizer", True, None)], "the model's revision is not the tokenizer's"
