"""Data sets as scripts give them: several evaluation sets, streams, transforms; pictures are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from api_helpers import ROWS, trainer
from histories import StopAfter, history
from tiny import tiny_model

from groupwise.errors import ConfigError, DataError, ModelError, RewardError

SETS = {"math": ROWS[:2], "code": ROWS[2:5]}


def evaluated(folder: Path, given: Any = SETS, *, resume: bool = False, callbacks: Any = (), **settings: Any) -> Any:
    rest = {"eval_dataset": given, "callbacks": list(callbacks)}
    run = trainer(folder, rest=rest, **{"eval_steps": 1, "eval_on_start": True, "max_steps": 3, **settings})
    run.train(resume_from_checkpoint=resume)
    return run


def entries(run: Any) -> list[dict[str, float]]:
    """`log_history` without what the clock says, and without the closing entry, which is each process's own."""
    measured = ("time", "seconds", "per_second", "memory")
    made = [entry for entry in run.state.log_history if "train_runtime" not in entry]
    return [{k: v for k, v in entry.items() if not any(word in k for word in measured)} for entry in made]


# --- several evaluation sets ---


@pytest.mark.parametrize("kind", [dict, datasets.DatasetDict])
def test_each_set_is_evaluated_under_its_name(tmp_path: Path, kind: Any) -> None:
    given = {name: datasets.Dataset.from_list(rows) for name, rows in SETS.items()}
    run = evaluated(tmp_path / "both", kind(given) if kind is dict else datasets.DatasetDict(given))
    found = [k for e in entries(run) for k in e if k.startswith("eval_") and k.endswith(("math_reward", "code_reward"))]
    assert found == ["eval_math_reward", "eval_code_reward"] * 4, "one entry a set, as the ecosystem logs them"
    alone = evaluated(tmp_path / "alone", SETS["code"])
    for both, one in zip(history(tmp_path / "both"), history(tmp_path / "alone"), strict=True):
        assert both["eval_code_reward"] == one["eval_reward"]
        assert both["eval_code_greedy_reward"] == one["eval_greedy_reward"]
        assert both["eval_code_rewards/short/mean"] == one["eval_rewards/short/mean"]
        assert both["loss"] == one["loss"]
    assert alone.state.global_step == 3


def test_a_resumed_run_has_the_same_entries(tmp_path: Path) -> None:
    sets = {**SETS, "math_hard": ROWS[5:]}  # begins like another name
    whole = evaluated(tmp_path / "whole", sets)
    evaluated(tmp_path / "parts", sets, callbacks=[StopAfter(1)], save_steps=1)
    parts = evaluated(tmp_path / "parts", sets, resume=True, save_steps=1)
    assert entries(parts) == entries(whole)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_the_best_model_follows_one_of_the_sets(tmp_path: Path) -> None:
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "eval_code_reward"}
    run = evaluated(tmp_path / "run", **settings)
    values = [record["eval_code_reward"] for record in history(tmp_path / "run")]
    assert run.state.best_metric == max(values)
    assert run.state.best_global_step == values.index(max(values)) + 1
    for wrong in (None, "eval_reward", "eval_cod_reward"):
        with pytest.raises(ConfigError, match=r"which no evaluation measures; expected one of eval_math_reward"):
            evaluated(tmp_path / "wrong", **{**settings, "metric_for_best_model": wrong})


def test_evaluate_takes_several_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, rest={"eval_dataset": SETS})
    by_name = run.evaluate({"more": ROWS[:1]}, metric_key_prefix="test")
    assert {"test_more_reward", "test_more_greedy_reward", "time/test_more"} <= by_name.keys()
    assert run.evaluate()["eval_math_reward"] == run.evaluate(SETS)["eval_math_reward"]
    assert run.evaluate(metric_key_prefix="x").keys() >= {"x_math_reward", "x_code_reward"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "an empty dict"),
        ({"greedy": ROWS}, "'greedy' is no name for an evaluation set"),
        ({1: ROWS}, "1 is no name"),
        ({"math": []}, "is empty"),
        ({"math": None}, "Cannot use a NoneType as data"),
    ],
)
def test_a_set_that_cannot_be_evaluated_is_named(tmp_path: Path, given: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        trainer(tmp_path, rest={"eval_dataset": given})


def test_a_column_that_one_set_lacks_is_found_before_training(tmp_path: Path) -> None:
    def needs(completions: Any, answer: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r'evaluation data set "code" has no such column'):
        trainer(tmp_path, rewards=needs, rest={"eval_dataset": {"math": ROWS, "code": [{"prompt": "p"}]}})


# --- the greedy pass ---


def of_groups(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward that compares the completions of a prompt, cut into groups of two."""
    assert len(completions) % 2 == 0, f"{len(completions)} completions are no whole groups"
    return [float(len(text) > len(completions[i // 2 * 2])) for i, text in enumerate(completions)]


@pytest.mark.parametrize("num_problems", [2, 3])  # two greedy completions would pass for a group
def test_a_reward_of_groups_leaves_the_greedy_reward_out_with_one_note(
    tmp_path: Path, num_problems: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {"eval_dataset": ROWS[:num_problems]}
    run = trainer(tmp_path, rewards=of_groups, rest=rest, eval_steps=1, max_steps=3)
    run.train()
    records = history(tmp_path)
    assert all(record["eval_reward"] is not None for record in records)
    assert all(record["eval_greedy_reward"] is None for record in records)
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("Greedy completions, one a problem, stay without a reward") == 1


def test_the_greedy_pass_can_be_left_out(tmp_path: Path) -> None:
    sizes: list[int] = []

    def counts(completions: list[str]) -> list[float]:
        sizes.append(len(completions))
        return [float(len(text)) for text in completions]

    rest = {"eval_dataset": ROWS[:3]}
    trainer(tmp_path / "a", rewards=counts, rest=rest, eval_steps=2, eval_greedy=False).train()
    assert sizes == [4, 4, 6]
    assert "eval_greedy_reward" not in history(tmp_path / "a")[-1]
    sizes.clear()
    trainer(tmp_path / "b", rewards=counts, rest=rest, eval_steps=1).train()
    assert sizes == [4, 6, 1, 3, 4, 6, 3], "the first evaluation tries one greedy completion"


# --- streams and transforms ---


def stream(read: list[int] | None = None, size: int = 100) -> datasets.IterableDataset:
    def rows() -> Iterator[dict[str, Any]]:
        for number in range(size):
            if read is not None:
                read.append(number)
            yield {"prompt": f"say {number}", "answer": str(number)}

    return datasets.IterableDataset.from_generator(rows)


def prompts(seen: list[str]) -> Any:
    def reward(completions: Any, answer: Any, prompts: Any) -> list[float]:
        seen.extend(prompts[::2])
        return [-float(len(text)) for text in completions]

    return reward


def test_a_stream_is_drawn_in_its_order_and_read_no_further(tmp_path: Path) -> None:
    read: list[int] = []
    seen: list[str] = []
    trainer(tmp_path, data=stream(read), rewards=prompts(seen), max_steps=3).train()
    assert seen == [f"say {number}" for number in range(6)]
    assert max(read) <= 6


def test_a_run_on_a_stream_resumes_at_the_next_row(tmp_path: Path) -> None:
    settings = {"max_steps": 3, "save_steps": 1}
    whole: list[str] = []
    trainer(tmp_path / "whole", data=stream(), rewards=prompts(whole), **settings).train()
    parts: list[str] = []
    rest = {"callbacks": [StopAfter(1)]}
    trainer(tmp_path / "parts", data=stream(), rewards=prompts(parts), rest=rest, **settings).train()
    resumed = trainer(tmp_path / "parts", data=stream(), rewards=prompts(parts), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert parts == whole
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_a_stream_that_is_too_short_or_has_no_end_is_told_what_to_set(tmp_path: Path) -> None:
    trainer(tmp_path / "again", data=stream(size=3), max_steps=3).train()  # begins again, as a data set does
    with pytest.raises(DataError, match="set prompts_per_step to 1 or less"):
        trainer(tmp_path, data=stream(size=1))
    with pytest.raises(DataError, match=r"has no length.*Set max_steps"):
        trainer(tmp_path, data=stream(), max_steps=-1)


def test_a_stream_has_one_reader_as_in_trl(tmp_path: Path) -> None:
    workers = {"dataloader_num_workers": 4, "max_steps": 1}
    assert trainer(tmp_path / "stream", data=stream(), **workers).args.dataloader_num_workers == 0
    assert trainer(tmp_path / "rows", **workers).args.dataloader_num_workers == 4


def endless() -> datasets.IterableDataset:
    return datasets.IterableDataset.from_generator(lambda: ({"prompt": str(n)} for n in itertools.count()))


def test_a_stream_is_evaluated_whole_where_it_ends(tmp_path: Path) -> None:
    read: list[int] = []
    run = trainer(tmp_path, rest={"eval_dataset": {"a": stream(read, size=3), "b": stream(size=2)}})
    assert read == [0, 1, 2], "once, when the trainer is made"
    assert [len(evaluator.rows) for evaluator in run.parts.evaluators] == [3, 2]
    assert run.evaluate(stream(size=2))["eval_reward"] is not None


def test_a_stream_without_an_end_is_evaluated_by_its_first_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groupwise.data.load.MAX_STREAMED", 5)
    with pytest.raises(DataError, match=r"does not end within 5 rows\. Set num_eval_problems"):
        trainer(tmp_path, rest={"eval_dataset": endless()})
    run = trainer(tmp_path, rest={"eval_dataset": endless()}, num_eval_problems=2)
    assert len(run.parts.evaluators[0].rows) == 2


@pytest.mark.parametrize("lasting", [True, False])
def test_a_transform_may_read_every_column(tmp_path: Path, lasting: bool) -> None:
    def ask(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        pairs = zip(batch["prompt"], batch["answer"], strict=True)
        return {"prompt": [f"{p} {a}" for p, a in pairs], "answer": batch["answer"]}

    data = datasets.Dataset.from_list(ROWS)
    if lasting:
        data.set_transform(ask)
    else:
        data = data.with_transform(ask)
    seen: list[str] = []
    trainer(tmp_path, data=data, rewards=prompts(seen), shuffle_dataset=False, max_steps=1).train()
    assert seen == ["say one one", "say two two"]


# --- pictures ---


@pytest.mark.parametrize("column", ["image", "images"])
@pytest.mark.parametrize("as_table", [True, False])
def test_a_column_that_the_model_would_have_to_see_is_refused(tmp_path: Path, column: str, as_table: bool) -> None:
    def given(values: list[Any]) -> Any:
        rows = [{**row, column: value} for row, value in zip(ROWS, values, strict=True)]
        return datasets.Dataset.from_list(rows) if as_table else rows

    trainer(tmp_path, data=given([None] * 6))
    value: Any = "a.png" if column == "image" else ["a.png"]
    for train, held_out in (
        (given([None, None, value, None, None, None]), None),
        (ROWS, given([None] * 2 + [value] * 4)),
    ):
        with pytest.raises(DataError, match=rf"Row 3 of .*column '{column}', which cannot reach the model"):
            trainer(tmp_path, data=train, rest={"eval_dataset": held_out})


def test_pictures_of_a_data_set_are_not_decoded_to_be_refused(tmp_path: Path) -> None:
    features = datasets.Features({"prompt": datasets.Value("string"), "image": datasets.Image()})
    rows = {"prompt": ["a", "b"], "image": [None, {"bytes": b"no picture", "path": None}]}
    with pytest.raises(DataError, match=r"Row 2 of .*'image'"):
        trainer(tmp_path, data=datasets.Dataset.from_dict(rows, features=features))


def test_a_message_with_a_picture_is_refused(tmp_path: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    rows = [{"prompt": [{"role": "user", "content": "a"}]}, {"prompt": [{"role": "user", "content": parts}]}]
    with pytest.raises(DataError, match=r"Row 2 of .*a part of type 'image', which cannot reach the model"):
        trainer(tmp_path, data=rows)


def tiny_vlm() -> Any:
    """A Llava with one layer of each kind."""
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**small, image_size=28, patch_size=14, projection_dim=32)
    text = tiny_model().config
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(vision_config=vision, text_config=text))


def test_a_model_that_sees_is_refused_and_its_text_model_is_trained(tmp_path: Path) -> None:
    model = tiny_vlm()
    with pytest.raises(ModelError, match=r"reads no text \(vision_config\)") as error:
        trainer(tmp_path, model=model)
    (way,) = str(error.value).partition("inside it: ")[2].rpartition("; and give")[:1]
    names = {"AutoModelForCausalLM": transformers.AutoModelForCausalLM, "model": model}
    exec(way, names)
    text, ids = names["text"], torch.tensor([[5, 9, 12]])
    assert torch.equal(text.eval()(ids).logits, model.eval()(ids).logits)
    trainer(tmp_path, model=text).train()


def test_a_model_that_sees_and_has_no_text_class_is_refused(tmp_path: Path) -> None:
    from groupwise.policy.trainable import require_causal_lm

    class Sees(torch.nn.Module):
        config = transformers.Qwen2VLConfig()

        def get_output_embeddings(self) -> None: ...

        def get_base_model(self) -> None: ...

    with pytest.raises(ModelError, match=r"vision_config.*Give a model of text"):
        require_causal_lm(Sees())
