"""The Python API, as users of the ecosystem call it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import transformers
from api_helpers import CHATS, ROWS, config, model_folder, short, trainer
from datasets import Dataset
from histories import history, of_steps, timeless
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer, with_lora
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from groupwise import GRPOConfig, GRPOTrainer
from groupwise.errors import ConfigError, DataError, GroupwiseError, RunError
from groupwise.report import write_report
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader

LORA = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
IDS = torch.tensor([[5, 9, 12, 30, 7]])


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# --- models ---


def test_a_model_given_by_name_is_trained_in_full(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", dtype=torch.bfloat16)
    run = GRPOTrainer(str(base), short, config(tmp_path / "run", max_steps=1, learning_rate=0.1), ROWS)
    before = weights(run.model)
    run.train()
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert changed(before, weights(run.model)) == set(before)
    assert run.processing_class.chat_template == tiny_tokenizer(chat=True).chat_template


def test_an_adapter_is_trained_on_a_base_that_stays_as_it_was(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", dtype=torch.bfloat16)
    args = config(tmp_path / "run", max_steps=1, learning_rate=0.1)
    run = GRPOTrainer(str(base), short, args, ROWS, peft_config=LORA)
    before = weights(run.model)
    run.train()
    assert isinstance(run.model, PeftModel)
    moved = changed(before, weights(run.model))
    assert moved == {name for name in before if "lora_B" in name}, "A moves only once B has left 0"
    assert {before[name].dtype for name in before if "lora" not in name} == {torch.bfloat16}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_object_is_trained_itself_and_stays_what_it_was(tmp_path: Path, attention: str) -> None:
    model = tiny_model(attn_implementation=attention)
    names, before = list(model.state_dict()), weights(model)
    run = trainer(tmp_path, model=model)
    run.train()
    assert run.model is model
    assert type(model) is transformers.LlamaForCausalLM
    assert model.config._attn_implementation == attention
    assert list(model.state_dict()) == names
    assert changed(before, weights(model))


def test_a_wrapped_model_trains_the_adapter_it_has(tmp_path: Path) -> None:
    model = with_lora(tiny_model())
    before = weights(model)
    run = trainer(tmp_path, model=model)
    run.train()
    assert run.model is model
    assert changed(before, weights(model)) == {name for name in before if "lora" in name}
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["lora"]["r"] == 4


def test_merging_gives_a_plain_model_that_computes_the_same(tmp_path: Path) -> None:
    run = trainer(tmp_path, model=with_lora(tiny_model()))
    run.train()
    with torch.no_grad():
        adapted = run.model(IDS).logits
        merged = run.model.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, adapted, atol=1e-5, rtol=0)
    assert type(merged) is transformers.LlamaForCausalLM
    assert list(merged.state_dict()) == list(tiny_model().state_dict())


def test_how_much_is_trained_is_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, model=with_lora(tiny_model())).train()
    assert "3,712 of 23,328 parameters are trained (15.91%)" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "run.json").read_text())["model"]
    assert (recorded["num_trainable_parameters"], recorded["num_parameters"]) == (3712, 23328)


# --- data and rewards ---


def test_columns_reach_the_rewards_and_prompts_have_the_form_they_came_in(tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(prompts: list[Any], completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
        seen.extend(zip(prompts, completions, answer, strict=True))
        return [float(i) for i in range(len(prompts))]

    trainer(tmp_path, rewards=look, max_steps=1, data=Dataset.from_list(ROWS)).train()
    pairs = {row["prompt"]: row["answer"] for row in ROWS}
    assert len(seen) == 4
    assert all(pairs[prompt] == answer and isinstance(completion, str) for prompt, completion, answer in seen)


def test_chats_give_the_rewards_messages(tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [0.0, 1.0, 0.0, 1.0]

    run = trainer(tmp_path, rewards=look, data=CHATS, max_steps=1)
    run.train()
    assert all(prompt[-1]["role"] == "user" and completion[0]["role"] == "assistant" for prompt, completion in seen)
    prompt_ids = run.parts.problems[0].prompt_ids
    assert run.processing_class.decode(prompt_ids) == "u/say one\na/"


def test_several_rewards_are_weighted_and_summed(tmp_path: Path) -> None:
    def even(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(len(c) % 2) for c in completions]

    run = trainer(tmp_path, rewards=[short, even], reward_weights=[0.5, 2.0], max_steps=1)
    run.train()
    (entry,) = of_steps(run.state.log_history)
    parts = 0.5 * entry["rewards/short/mean"] + 2.0 * entry["rewards/even/mean"]
    assert entry["reward"] == pytest.approx(parts, abs=1e-9)


@pytest.mark.parametrize("given", [lambda tokenizer: tokenizer, lambda tokenizer: TextProcessor(tokenizer)])
def test_a_reward_model_scores_with_its_own_tokenizer(given: Any, tmp_path: Path) -> None:
    judge_config = transformers.LlamaConfig(**tiny_model().config.to_dict() | {"num_labels": 1})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        scorer = transformers.LlamaForSequenceClassification(judge_config).eval()
    tokenizer = tiny_tokenizer()
    rest = {"reward_processing_classes": [given(tokenizer)]}
    run = trainer(tmp_path, rewards=[scorer], max_steps=1, rest=rest)
    run.train()
    groups = [json.loads(line) for line in (tmp_path / "completions/step-000001.jsonl").read_text().splitlines()]
    for group in groups:
        for completion in group["completions"]:
            ids = tokenizer.encode(group["prompt"] + completion["text"], add_special_tokens=False)
            with torch.inference_mode():
                score = scorer(torch.tensor([ids])).logits[0, 0].item()
            assert completion["reward"] == pytest.approx(score, abs=1e-4)


# --- members ---


def test_train_returns_and_keeps_what_the_ecosystem_expects(tmp_path: Path) -> None:
    run = trainer(tmp_path, logging_steps=2, max_steps=4)
    output = run.train()
    assert (output.global_step, run.state.global_step, run.state.max_steps) == (4, 4, 4)
    assert [entry["step"] for entry in run.state.log_history] == [2, 4, 4]
    closing = {k: v for k, v in run.state.log_history[-1].items() if k != "step"}
    assert output.metrics == closing
    assert (
        output.training_loss
        == closing["train_loss"]
        == pytest.approx(fmean(record["loss"] for record in history(tmp_path)))
    )
    assert run.state.epoch == pytest.approx(4 * 2 / 6)
    assert set(closing) == {
        "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss", "epoch"
    }  # fmt: skip
    assert closing["train_steps_per_second"] == pytest.approx(4 / closing["train_runtime"])
    assert closing["train_samples_per_second"] == pytest.approx(4 * 4 / closing["train_runtime"])
    first = run.state.log_history[0]
    assert {"loss", "reward", "reward_std", "kl", "grad_norm", "learning_rate", "completions/mean_length"} <= set(first)


def test_args_and_tokenizer_are_those_that_were_given(tmp_path: Path) -> None:
    args, tokenizer = config(tmp_path), tiny_tokenizer()
    run = GRPOTrainer(tiny_model(), [short], args, ROWS, processing_class=tokenizer)
    assert run.args is args
    assert run.processing_class is tokenizer
    assert repr(run) == "GRPOTrainer(LlamaForCausalLM, 19,616 of 19,616 parameters are trained (100.00%))"


class TextProcessor(transformers.ProcessorMixin):
    """A processor without images."""

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


def test_of_a_processor_the_tokenizer_is_taken_and_saved(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(chat=True)
    run = trainer(tmp_path, data=CHATS, rest={"processing_class": TextProcessor(tokenizer)})
    assert run.processing_class is tokenizer
    run.train()
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "final")
    assert saved.get_vocab() == tokenizer.get_vocab()


def test_the_chat_template_of_a_processor_is_used_and_the_tokenizer_stays_as_it_was(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    run = trainer(tmp_path, data=CHATS, rest={"processing_class": TextProcessor(tokenizer, chat_template=template)})
    assert run.processing_class.decode(run.parts.problems[0].prompt_ids) == "say one!"
    assert tokenizer.chat_template is None


IMAGE_PROCESSOR = "ViTImageProcessorPil" if hasattr(transformers, "ViTImageProcessorPil") else "ViTImageProcessor"
"""transformers 5.0 has one class for all image libraries."""
NO_TOKENIZERS: dict[str, tuple[Any, str]] = {
    "a name": ("gpt2", r"'gpt2' \(str\).*AutoTokenizer.from_pretrained\('gpt2'\)"),
    "nothing": ("", r"'' \(str\)"),
    "false": (False, r"False \(bool\)"),
    "a dict": ({"pad_token_id": 0}, r"\{'pad_token_id': 0\} \(dict\)"),
    "a backend": (
        tiny_tokenizer().backend_tokenizer,
        r"a tokenizers.Tokenizer;.*PreTrainedTokenizerFast\(tokenizer_object",
    ),
    "a class": (transformers.PreTrainedTokenizerFast, r"the class .*Tokeniz"),
    "a model": (tiny_model(), r"a transformers.LlamaForCausalLM"),
    "a processor of images": (getattr(transformers, IMAGE_PROCESSOR)(), r"a transformers.ViTImageProcessor"),
}


@pytest.mark.parametrize("name", NO_TOKENIZERS)
def test_what_is_no_tokenizer_is_refused_by_name_before_anything_is_loaded(name: str, tmp_path: Path) -> None:
    given, said = NO_TOKENIZERS[name]
    with pytest.raises(ConfigError, match=rf"^processing_class is {said}"):
        trainer(tmp_path, model="./absent", data="absent.jsonl", rest={"processing_class": given})
    if name != "a name":  # of a reward model, a tokenizer may be named
        with pytest.raises(ConfigError, match=rf"^reward_processing_classes is {said}"):
            trainer(tmp_path, rest={"reward_processing_classes": [given]})


WRONG_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "a dict of settings": ({"args": {"max_steps": 1}}, r"args is .* \(dict\).*GRPOConfig\(\*\*args\)"),
    "the folder of the run": ({"args": "out"}, r"args is 'out' \(str\).*GRPOConfig\('out'\)"),
    "the class of the settings": ({"args": GRPOConfig}, "args is the class GRPOConfig.*call the class"),
    "an adapter by name": ({"peft_config": "lora"}, r"peft_config is 'lora' \(str\).*LoraConfig\(r=16\)"),
    "an adapter as a dict": ({"peft_config": {"r": 4}}, r"LoraConfig\(r=4\).*lora: \{r: 16\}"),
    "the class of the adapter": ({"peft_config": LoraConfig}, "peft_config is the class LoraConfig"),
    "columns": ({"train_dataset": {"prompt": ["a"]}}, "Cannot use a dict as data.*Dataset.from_dict"),
    "a number": ({"train_dataset": 3}, "Cannot use a int as data"),
    "the class of a model": ({"model": transformers.LlamaForCausalLM}, "model is the class LlamaForCausalLM"),
    "an empty name": ({"model": ""}, "needs model"),
    "an empty reward": ({"reward_funcs": ""}, "needs reward_funcs"),
    "one callback": ({"callbacks": TrainerCallback()}, "expected a list of TrainerCallbacks"),
    "an optimizer's name": ({"optimizers": ("adamw", None)}, "expected an optimizer of torch"),
    "the name of a screen": ({"screen": "plain"}, r"screen is 'plain' \(str\)"),
}


@pytest.mark.parametrize("name", WRONG_KINDS)
def test_an_argument_of_a_wrong_kind_is_named(name: str, tmp_path: Path) -> None:
    wrong, said = WRONG_KINDS[name]
    right = {"model": tiny_model(), "reward_funcs": short, "args": config(tmp_path), "train_dataset": ROWS}
    with pytest.raises(GroupwiseError, match=said):
        GRPOTrainer(**{**right, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", [{"eval_steps": 5}, {"eval_strategy": "epoch"}, {"eval_on_start": True}])
def test_evaluations_need_held_out_problems_before_anything_is_loaded(asked: dict[str, Any], tmp_path: Path) -> None:
    named = " ".join(str(word) for word in next(iter(asked.items())) if word is not True)
    with pytest.raises(ConfigError, match=f"^{named}: there are no held-out problems.*eval_dataset"):
        trainer(tmp_path, model="./absent.gguf", **asked)


def test_without_args_the_defaults_are_used() -> None:
    model = tiny_model(max_position_embeddings=1024)
    run = GRPOTrainer(model, short, train_dataset=ROWS * 2, processing_class=tiny_tokenizer())
    assert run.args == GRPOConfig()


def test_evaluation_scores_the_held_out_problems(tmp_path: Path) -> None:
    def is_two(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        return [float(prompt == "say two") for prompt in prompts]

    run = trainer(
        tmp_path, rewards=is_two, rest={"eval_dataset": ROWS[:3]}, report_to=["tensorboard"], eval_steps=2, max_steps=2
    )
    metrics = run.evaluate()
    assert metrics["eval_reward"] == metrics["eval_greedy_reward"] == pytest.approx(1 / 3)
    assert metrics["eval_reward_stderr"] == pytest.approx(1 / 3)
    assert run.evaluate(ROWS[1:2])["eval_reward"] == 1.0
    assert [entry["eval_reward"] for entry in run.state.log_history] == [pytest.approx(1 / 3), 1.0]
    run.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("eval_reward") for line in lines] == [None, pytest.approx(1 / 3)]
    assert run.trackers.names == ["tensorboard"], "evaluating before training costs no tracker"


def test_held_out_problems_given_later_are_checked_row_by_row(tmp_path: Path) -> None:
    run = GRPOTrainer(
        tiny_model(),
        "number",
        config(tmp_path),
        [{**row, "answer": 1} for row in ROWS],
        processing_class=tiny_tokenizer(),
    )
    with pytest.raises(DataError, match=r"data, row 2: Reward number: the data set's answer '12:45'"):
        run.evaluate([{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "12:45"}])


def test_nothing_to_evaluate_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to evaluate on\. Give eval_dataset"):
        trainer(tmp_path).evaluate()


def test_save_model_writes_what_from_pretrained_reads(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", model=with_lora(tiny_model()), max_steps=1)
    run.train()
    with torch.no_grad():
        mine = run.model(IDS).logits
        merged = transformers.AutoModelForCausalLM.from_pretrained(run.save_model(tmp_path / "merged", merge=True))
        torch.testing.assert_close(merged(IDS).logits, mine, atol=1e-5, rtol=0)
        adapter = PeftModel.from_pretrained(tiny_model(), str(run.save_model(tmp_path / "adapter")))
        assert torch.equal(adapter(IDS).logits, mine)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == run.processing_class.chat_template
    assert isinstance(run.model, PeftModel), "saving a merged copy leaves the model as it is"


def test_the_tokens_of_the_records_can_be_read_from_the_first_step_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=1, save_strategy="no")
    run.train()
    file = RunFolder(tmp_path).tokenizer
    read = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
    assert read.get_vocab() == run.processing_class.get_vocab()


def test_saving_into_the_run_folder_keeps_its_record(tmp_path: Path) -> None:
    """Records and models have names of their own, so that a script's last lines do no harm."""
    run = trainer(tmp_path, max_steps=1)
    run.train()
    record = (tmp_path / "run.json").read_text()
    assert run.save_model(run.args.output_dir) == tmp_path
    run.model.config.save_pretrained(tmp_path)
    assert (tmp_path / "run.json").read_text() == record
    for folder in (tmp_path, tmp_path / "final", get_last_checkpoint(str(tmp_path))):
        saved = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert all(torch.equal(mine, its) for mine, its in zip(run.model.parameters(), saved.parameters(), strict=True))
        assert transformers.AutoTokenizer.from_pretrained(folder).chat_template == run.processing_class.chat_template
    write_report(RunFolder(tmp_path))
    again = trainer(tmp_path, max_steps=2)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2


@pytest.mark.usefixtures("real_report")
def test_the_report_of_a_trainer_is_its_page_and_its_pictures(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=2)
    with pytest.raises(RunError):
        run.report()
    run.train()
    shown = run.report()
    assert shown.page == tmp_path / "report" / "index.html"
    assert str(shown) == str(shown.page)
    assert [path.stem for path in shown.pictures][:2] == ["reward", "kl-and-loss"]
    assert shown._repr_html_().count('<img src="data:image/png;base64,') == len(shown.pictures)
    assert "<script" not in shown._repr_html_()


@pytest.mark.parametrize("kind", ["whole", "lora", "lora, head saved"])
def test_checkpoints_are_the_ecosystems(tmp_path: Path, kind: str) -> None:
    """`get_last_checkpoint` finds them, and plain transformers or peft load the very weights."""
    peft_config = LoraConfig(r=2, modules_to_save=["lm_head"] if "head" in kind else None)
    rest = {} if kind == "whole" else {"peft_config": peft_config}
    run = trainer(tmp_path, max_steps=2, save_steps=1, rest=rest)
    run.train()
    last = get_last_checkpoint(str(tmp_path))
    assert last == str(tmp_path / "checkpoint-2")
    if kind == "whole":
        loaded = transformers.AutoModelForCausalLM.from_pretrained(last)
    else:
        loaded = PeftModel.from_pretrained(tiny_model(), last)
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, run.model(IDS).logits)
    assert not (tmp_path / "checkpoint-2/state/policy.safetensors").exists(), "each weight is stored once"


def test_a_preempted_script_resumes_with_its_usual_lines(tmp_path: Path) -> None:
    """The habit of preemptible jobs: the same script again, which looks for its last checkpoint."""

    def start(num: int, **settings: Any) -> GRPOTrainer:
        run = trainer(tmp_path / "run", max_steps=num, save_steps=1, lr_scheduler_type="constant", **settings)
        there = (tmp_path / "run").is_dir()
        run.train(resume_from_checkpoint=get_last_checkpoint(str(tmp_path / "run")) if there else None)
        return run

    start(2)
    resumed = start(4)
    whole = trainer(tmp_path / "whole", max_steps=4, save_steps=1, lr_scheduler_type="constant")
    whole.train()
    pairs = zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_another_trainers_checkpoint_is_not_replaced_unless_asked(kind: str, tmp_path: Path) -> None:
    other = tmp_path / "checkpoint-2"
    if kind == "file":
        other.write_text("a file")
    else:
        other.mkdir()
        (other / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-1").mkdir()  # an empty one is nothing to lose
    with pytest.raises(RunError, match=r"checkpoint-2\" was written by another program.*overwrite_output_dir=True"):
        trainer(tmp_path, save_steps=1).train()
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint-1", "checkpoint-2", ".lock"}
    run = trainer(tmp_path, save_steps=1, overwrite_output_dir=True)
    run.train()
    run.train(resume_from_checkpoint=True)
    assert RunFolder(tmp_path).checkpoint_steps() == [1, 2]


def test_overwrite_output_dir_means_it(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=2).train()
    trainer(tmp_path, max_steps=1, overwrite_output_dir=True).train()
    assert [record["step"] for record in RunReader(tmp_path).metrics()] == [1]
    resumed = trainer(tmp_path, max_steps=2, overwrite_output_dir=True)
    resumed.train(resume_from_checkpoint=True)
    assert [record["step"] for record in RunReader(tmp_path).metrics()] == [1, 2]


class Diary(TrainerCallback):
    """Writes down what it is told, and asks for an end after step `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.events: list[str] = []
        self.logs: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert {"model", "processing_class", "optimizer", "lr_scheduler"} <= set(kwargs)
        self.events.append("begin")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.events.append(f"step {state.global_step}")
        control.should_training_stop = state.global_step == self.last
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        self.logs.append(logs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(f"save {state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append("end")


def test_callbacks_hear_of_everything_and_can_stop(tmp_path: Path) -> None:
    first, second = Diary(), Diary(last=2)
    run = trainer(tmp_path, max_steps=9, rest={"callbacks": [first]})
    run.add_callback(second)
    run.train()
    assert first.events == second.events == ["begin", "step 1", "step 2", "save 2", "end"]
    assert first.logs[-1].items() < run.state.log_history[-1].items()
    assert first.logs[:-1] == run.state.log_history[:-1]
    assert "train_runtime" in first.logs[-1]
    assert (tmp_path / "final/model.safetensors").is_file()


def test_a_callback_can_be_given_as_a_class(tmp_path: Path) -> None:
    heard: list[int] = []

    class Ear(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            heard.append(state.global_step)

    run = trainer(tmp_path)
    run.add_callback(Ear)
    run.train()
    assert heard == [1, 2]


def test_the_users_own_numbers_are_logged(tmp_path: Path) -> None:
    diary = Diary()
    run = trainer(tmp_path, rest={"callbacks": [diary]})
    run.log({"mine": 3.5})
    assert run.state.log_history == [{"mine": 3.5, "step": 0}]
    assert diary.logs == [{"mine": 3.5}]


def test_the_users_own_optimizer_and_schedule_are_used(tmp_path: Path) -> None:
    model = tiny_model()
    head = model.lm_head.weight
    optimizer = torch.optim.SGD([head], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1**step)
    before = weights(model)
    run = trainer(tmp_path, model=model, rest={"optimizers": (optimizer, scheduler)})
    run.train()
    assert changed(before, weights(model)) == {"lm_head.weight"}
    assert [entry["learning_rate"] for entry in of_steps(run.state.log_history)] == pytest.approx([0.5, 0.05])
    assert json.loads((tmp_path / "run.json").read_text())["used"]["optimizer"] == "SGD"


def test_tensorboard_gets_the_curves(tmp_path: Path) -> None:
    run = trainer(tmp_path, report_to=["tensorboard"])
    run.train()
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (file,) = (tmp_path / "tensorboard").iterdir()
    rewards = [
        (event.step, value.tensor.float_val[0])
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == "train/reward"
    ]
    assert rewards == [(entry["step"], pytest.approx(entry["reward"])) for entry in of_steps(run.state.log_history)]


def test_resuming_continues_one_history(tmp_path: Path) -> None:
    """Stopped after step 2 and resumed by another trainer, a run records what an uninterrupted one does."""
    whole = trainer(tmp_path / "whole", max_steps=4)
    whole.train()
    trainer(tmp_path / "run", max_steps=4, rest={"callbacks": [Diary(last=2)]}).train()
    second = trainer(tmp_path / "run", max_steps=4)
    second.train(resume_from_checkpoint=True)

    assert timeless(second.state.log_history) == timeless(whole.state.log_history)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    mine, other = (load_file(tmp_path / name / "final/model.safetensors") for name in ("run", "whole"))
    assert not changed(mine, other)


def test_a_checkpoint_can_be_named(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_steps=3, save_steps=1)
    first.train()
    second = trainer(tmp_path, max_steps=3, save_steps=1)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert timeless(second.state.log_history) == timeless(first.state.log_history)


def test_overwriting_starts_afresh(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=3).train()
    run = trainer(tmp_path, max_steps=1)
    run.train(overwrite=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("place", ["taken", "taken/run"])
def test_a_file_in_the_place_of_the_folder_is_refused_before_loading(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("theirs")
    monkeypatch.setattr("groupwise.trainer.build", lambda *_: pytest.fail("built"))
    with pytest.raises(RunError, match=r"is a file; expected a folder\. Choose another output_dir"):
        trainer(tmp_path / place)
    assert (tmp_path / "taken").read_text() == "theirs"


def test_a_checkpoint_that_is_not_there_is_refused_before_the_run_is_touched(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    with pytest.raises(RunError, match=r"is not a checkpoint: there is no such folder\. Give a folder checkpoint-N"):
        run.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-9"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("leaves", ["a run", "another program's checkpoint"])
def test_a_used_folder_is_warned_of_before_loading_and_refused_first_of_all(
    tmp_path: Path, leaves: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if leaves == "a run":
        trainer(tmp_path, max_steps=1).train()
    else:
        (tmp_path / "checkpoint-1").mkdir()
        (tmp_path / "checkpoint-1/model.bin").write_text("theirs")
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr("groupwise.trainer.build", lambda *_: pytest.fail("built"))
        with pytest.raises(pytest.fail.Exception):
            trainer(tmp_path)
    assert "train() without resume_from_checkpoint will be refused: " in capsys.readouterr().out
    trainer(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    shown = capsys.readouterr().out
    assert "refused" not in shown
    assert "ignored" not in shown
    run = trainer(tmp_path)
    monkeypatch.setattr("groupwise.trainer.require_trainable", lambda *_: pytest.fail("too late"))
    with pytest.raises(RunError, match=r"another output_dir.*overwrite_output_dir=True") as caught:
        run.train()
    assert "--" not in str(caught.value)
