"""What scripts of the ecosystem read and call on a trainer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from api_helpers import ROWS, short, trainer
from tiny import tiny_model, tiny_tokenizer, with_lora
from transformers import PrinterCallback, TrainerCallback

from groupwise import GRPOTrainer
from groupwise.errors import ConfigError


class Quiet(TrainerCallback):
    """Does nothing."""


def test_what_scripts_read(tmp_path: Path) -> None:
    rest = {"eval_dataset": ROWS[:2], "callbacks": [Quiet()]}
    run = trainer(tmp_path, rest=rest, beta=0.1, hub_model_id="me/it", save_strategy="no")
    assert run.train_dataset is ROWS
    assert run.eval_dataset == ROWS[:2]
    assert run.reward_funcs == [short]
    assert run.reward_func_names == ["short"]
    assert torch.equal(run.reward_weights, torch.ones(1))
    assert run.reward_processing_classes == [None]
    assert (run.num_generations, run.beta, run.temperature) == (2, 0.1, 1.0)
    assert run.hub_model_id == "me/it"
    assert run.tokenizer is run.processing_class
    assert run.model_wrapped is run.model
    assert run.ref_model is not run.model
    assert run.is_world_process_zero()
    assert run.is_local_process_zero()
    assert (run.optimizer, run.lr_scheduler, run.is_in_train) == (None, None, False)
    with pytest.raises(ConfigError, match=r"train\(\) makes it"):
        run.get_learning_rates()
    run.train()
    assert isinstance(run.optimizer, torch.optim.Optimizer)
    assert set(run.get_learning_rates()) == {0.0}, "the schedule has come to its end"
    assert set(run.lr_scheduler.get_last_lr()) == {0.0}
    parameter = next(run.model.parameters())
    assert any(parameter is held for held in run.get_optimizer_group(parameter)["params"])
    assert run.get_num_trainable_parameters() == sum(p.numel() for p in run.model.parameters())
    assert run.control is not None
    for kept, before in zip(run.ref_model.parameters(), tiny_model().parameters(), strict=True):
        assert torch.equal(kept, before), "the reference is the model as it was"


def test_the_current_weight_of_the_entropy_bonus_is_read(tmp_path: Path) -> None:
    assert trainer(tmp_path / "fixed", entropy_coef=0.5).entropy_coef == 0.5
    adaptive = {"use_adaptive_entropy": True, "entropy_target": 15.0, "entropy_coef_delta": 0.005}
    run = trainer(tmp_path / "adaptive", entropy_coef=0.01, max_steps=3, **adaptive)
    assert run.entropy_coef == 0.01
    run.train()
    assert run.entropy_coef == pytest.approx(0.01 + 3 * 0.005)
    assert run.args.entropy_coef == 0.01


def test_the_mask_of_off_policy_sequences_is_trls() -> None:
    logprob_NT = torch.tensor([[-2.0, -2.0, 9.0], [-0.5, -0.5, 9.0], [-2.0, -2.0, 9.0], [-2.0, -0.5, 9.0]])
    mask_NT = torch.tensor([[1.0, 1.0, 0.0]] * 4)
    advantage = torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]])
    kept = GRPOTrainer.get_off_policy_mask(advantage, logprob_NT, torch.zeros(4, 3), mask_NT, 1.25)
    assert torch.equal(kept, torch.tensor([[1.0], [1.0], [0.0], [1.0]])), "at the threshold a sequence is kept"


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 4), (0.5, 2), (0.8, 1), (1.0, 1)])
def test_the_mask_of_the_most_uncertain_tokens_is_trls(tmp_path: Path, threshold: float, kept: int) -> None:
    entropy_NT = torch.tensor([[0.1, 0.4, 9.0], [0.3, 0.2, 9.0]])
    mask_NT = torch.tensor([[1, 1, 0], [1, 1, 0]])
    run = trainer(tmp_path)
    expected = (entropy_NT >= torch.tensor([0.1, 0.2, 0.3, 0.4]).quantile(threshold)) & (mask_NT > 0)
    found = run.get_high_entropy_mask(entropy_NT, mask_NT, threshold)
    assert torch.equal(found, expected)
    assert found.sum() == kept
    assert not run.get_high_entropy_mask(entropy_NT, mask_NT * 0, threshold).any()


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo"])
def test_a_ratio_of_sequences_under_a_mean_over_tokens_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, loss_type: str
) -> None:
    trainer(tmp_path, importance_sampling_level="sequence", loss_type=loss_type)
    assert ("weights each sequence by its completion length" in caplog.text) == (loss_type not in ("grpo", "luspo"))


def test_under_a_fresh_adapter_there_is_no_reference_model(tmp_path: Path) -> None:
    assert trainer(tmp_path, model=with_lora(tiny_model(), is_learnt=False)).ref_model is None
    assert trainer(tmp_path, beta=0.0).ref_model is None


def test_the_reward_model_and_its_tokenizer_are_those_that_were_given(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**{**tiny_model().config.to_dict(), "num_labels": 1})
    model, tokenizer = transformers.LlamaForSequenceClassification(config), tiny_tokenizer(chat=True)
    run = trainer(tmp_path, rewards=[model, short], rest={"reward_processing_classes": [tokenizer, None]})
    assert run.reward_funcs == [model, short]
    assert run.reward_processing_classes == [tokenizer, None]
    for given in (tokenizer, [tokenizer], [tokenizer] * 3):
        with pytest.raises(ConfigError, match="entries for 2 reward functions"):
            trainer(tmp_path, rewards=[model, short], rest={"reward_processing_classes": given})


def test_metrics_and_state_are_written_as_the_ecosystem_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(tmp_path)
    result = run.train()
    run.log_metrics("train", {**result.metrics, "train_runtime": 3723.0, "none": None})
    out = capsys.readouterr().out
    assert "***** train metrics *****" in out
    assert "1:02:03" in out
    run.save_metrics("train", {"loss": 1.0})
    run.save_metrics("eval", {"eval_loss": None}, combined=False)
    run.save_metrics("test", {"test_loss": 2.0})
    read = {name: json.loads((tmp_path / f"{name}_results.json").read_text()) for name in ("train", "eval", "all")}
    assert read == {"train": {"loss": 1.0}, "eval": {"eval_loss": None}, "all": {"loss": 1.0, "test_loss": 2.0}}
    run.save_state()
    state = transformers.TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert (state.global_step, len(state.log_history)) == (2, len(run.state.log_history))
    run.train(overwrite=True)  # none of these files is the run's


def test_a_run_with_nothing_left_to_do_keeps_what_it_measured(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    measured = first.train()
    again = trainer(tmp_path)
    result = again.train(resume_from_checkpoint=True)
    assert {"train_runtime", "train_loss", "train_steps_per_second"} <= result.metrics.keys()
    assert (result.metrics, result.training_loss) == (measured.metrics, measured.training_loss)
    assert again.state.log_history == first.state.log_history
    assert trainer(tmp_path).train(resume_from_checkpoint=True).metrics == measured.metrics, "a third time too"
    longer = trainer(tmp_path, max_steps=3).train(resume_from_checkpoint=True)
    assert longer.metrics["train_runtime"] != measured.metrics["train_runtime"]


def test_a_checkpoint_holds_the_state_that_tools_read(tmp_path: Path) -> None:
    rest = {"eval_dataset": ROWS[:2]}
    best = {"metric_for_best_model": "eval_reward", "load_best_model_at_end": True, "eval_steps": 1}
    run = trainer(tmp_path, rest=rest, max_steps=3, save_steps=1, eval_strategy="steps", save_strategy="steps", **best)
    run.train()
    for step in (1, 2, 3):
        folder = tmp_path / f"checkpoint-{step}"
        state = transformers.TrainerState.load_from_json(str(folder / "trainer_state.json"))
        assert (state.global_step, state.max_steps, state.epoch) == (step, 3, step / 3)
        assert state.log_history == [e for e in run.state.log_history if e["step"] <= step and "train_loss" not in e]
        assert Path(state.best_model_checkpoint).name == f"checkpoint-{state.best_global_step}"
        assert "trainer_state.json" in json.loads((folder / "manifest.json").read_text())["files"]
    assert state.best_metric == run.state.best_metric


def test_the_accelerator_of_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path)
    accelerator = run.accelerator
    assert accelerator.is_main_process
    assert accelerator.is_local_main_process
    assert (accelerator.process_index, accelerator.num_processes) == (0, 1)
    assert accelerator.device == torch.device("cpu")
    accelerator.print("hello")
    accelerator.wait_for_everyone()
    assert "hello" in capsys.readouterr().out
    assert accelerator.unwrap_model(run.model) is run.model
    with pytest.raises(AttributeError, match=r"accelerator has no save_state: .*It has device, .*num_processes"):
        accelerator.save_state("x")
    assert not hasattr(accelerator, "state")


def test_callbacks_go_as_they_came(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = Quiet()
    run = trainer(tmp_path, rest={"callbacks": [mine]})
    run.add_callback(Quiet)
    assert [type(callback) for callback in run.callback_handler.callbacks] == [Quiet, Quiet]
    assert run.pop_callback(mine) is mine
    run.remove_callback(Quiet)
    assert run.callback_handler.callbacks == []
    assert run.pop_callback(Quiet) is None
    with caplog.at_level(logging.WARNING):
        run.remove_callback(PrinterCallback)
    assert "There is no PrinterCallback to remove" in caplog.text
    with pytest.raises(AttributeError, match="groupwise calls the events itself"):
        run.callback_handler.on_log()


def test_keywords_that_ask_for_nothing_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nothing = ("quantization_config", "tools", "environment_factory", "rollout_func", "environments", "model_init")
    run = trainer(tmp_path, rest={"eval_dataset": ROWS[:2], **dict.fromkeys(nothing)})
    run.train(None, trial=None, ignore_keys_for_eval=None)
    found = run.evaluate(ignore_keys=None, metric_key_prefix="test")
    assert {"test_reward", "test_greedy_reward", "time/test"} <= found.keys()
    assert "test_reward" in run.state.log_history[-1]
    assert run.save_model(tmp_path / "model", _internal_call=True) == tmp_path / "model"
    assert not any("ignored" in record.message for record in caplog.records)
    with caplog.at_level(logging.WARNING):
        run.log({"mine": 1.0}, 12.0)
    assert "log(start_time) is ignored" in caplog.text
    assert run.state.log_history[-1]["mine"] == 1.0
    with pytest.raises(ConfigError, match=r"train\(trial\) is not supported: there is no hyper-parameter search"):
        run.train(trial={"a": 1})


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"tools": [print]}, "Tool print: Argument args is missing a type hint"),
        ({"environment_factory": dict}, "is a dict without reset"),
        ({"quantization_config": {"a": 1}}, "Give it to from_pretrained"),
        ({"rollout_func": print}, "write an environment"),
        ({"compute_metrics": print}, "a reward function of weight 0"),
        ({"tokenizer": tiny_tokenizer()}, "its name is processing_class"),
        ({"ref_model": "x"}, "the reference is the model as it is"),
        ({"procesing_class": 1}, r'has no argument "procesing_class". Did you mean "processing_class"'),
    ],
    ids=str,
)
def test_an_argument_that_is_not_taken_is_told_what_to_do(tmp_path: Path, argument: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        trainer(tmp_path, rest=argument)


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    for name, says in {
        "predict": "use evaluate",
        "get_train_dataloader": "there is no data loader",
        "compute_loss": r"policy_loss=",
        "_calculate_rewards": "the reward functions get all completions",
        "data_collator": "packed",
    }.items():
        assert not hasattr(run, name)
        with pytest.raises(AttributeError, match=f"GRPOTrainer has no {name}: .*{says}"):
            getattr(run, name)
    with pytest.raises(AttributeError, match="object has no attribute 'whatever'"):
        run.whatever()
    assert (run.use_vllm, run.is_fsdp_enabled, run.compute_metrics) == (False, False, None)


def test_what_would_have_no_effect_cannot_be_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path)
    for name, value in {"beta": 0.5, "compute_loss": print, "train_dataset": [], "_generate": print}.items():
        with pytest.raises(ConfigError, match=f"{name} would have no effect"):
            setattr(run, name, value)
    run.num_generations = 2  # as it is: subclasses copy arguments
    run.mine = 3
    assert run.mine == 3
    with caplog.at_level(logging.WARNING):
        run.model_accepts_loss_kwargs = True
    assert "model_accepts_loss_kwargs has no effect" in caplog.text
