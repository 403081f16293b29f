"""The case study runs as it is written; only downloads, upload and login are replaced."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_stub
import peft
import pytest
import torch
import transformers
from api_helpers import model_folder
from datasets import Dataset, DatasetDict
from histories import of_steps
from hub_stub import HubStub
from safetensors.torch import load
from tiny import tiny_model, tiny_tokenizer

from groupwise.world import has_fast_bfloat16

wandb = pytest.importorskip("wandb")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the Hub client's own

PROGRAM = Path(__file__).parents[1] / "examples" / "case_study.py"
NAME = "HuggingFaceTB/SmolLM-135M-Instruct"
POSTS = [{"prompt": f"post number {i}: a cat sat on a mat.", "completion": f"cat {i}"} for i in range(4)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    with hub_stub.running(monkeypatch) as stub:
        yield stub


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where downloads find a tiny bfloat16 model and four posts."""
    torch.set_num_threads(1)  # tiny tensors
    base = model_folder(tmp_path / "downloaded", dtype=torch.bfloat16, max_position_embeddings=512)
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
        monkeypatch.setattr(auto, "from_pretrained", downloading(auto.from_pretrained, base))
    monkeypatch.setattr("datasets.load_dataset", lambda name: DatasetDict({"train": Dataset.from_list(POSTS)}))
    monkeypatch.setattr("wandb.login", lambda: True)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()  # an earlier test's service would keep writing where that test was
    return tmp_path


def downloading(load: Callable[..., Any], base: Path) -> Callable[..., Any]:
    """`from_pretrained` that takes everything but the name as it was given."""
    return lambda name, **options: load(str(base) if name == NAME else name, **options)


@pytest.mark.slow
def test_the_program_runs_as_written(world: Path, hub: HubStub, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(PROGRAM), run_name="__main__")
    opened = wandb.run
    summary = dict(opened.summary)
    wandb.finish()
    trainer, merged = names["trainer"], names["merged"]

    assert [entry["step"] for entry in of_steps(trainer.state.log_history)] == [
        1,
        2,
    ]  # one pass over four posts, two a step
    record = json.loads((world / "GRPO/run.json").read_text())
    assert record["description"][0] == "2 prompts x 4 completions = 8 completions a step, 1 update"
    assert (record["recipe"]["run_name"], record["recipe"]["lora"]["r"]) == ("experiment", 16)
    assert record["model"]["compute_dtype"] == ("bfloat16" if has_fast_bfloat16(torch.device("cpu")) else "float32")
    said = capsys.readouterr().out
    assert "trainable params: 14,848" in said
    assert "14,848 of 34,464 parameters are trained (43.08%)" in said
    assert names["answer"][0]["generated_text"][-1]["role"] == "assistant"

    completions = [c for group in first_groups(world / "GRPO") for c in group["completions"]]
    assert [c["reward"] for c in completions] == [-abs(50 - len(c["text"])) for c in completions]

    assert opened.project == "GRPO"
    assert len(list((world / "wandb").glob("offline-run-*"))) == 1, "the user's run is used, not a second one"
    assert summary["train/global_step"] == 2
    assert summary["train/reward"] == of_steps(trainer.state.log_history)[-1]["reward"]

    assert type(merged) is transformers.LlamaForCausalLM
    assert (merged.config._attn_implementation, merged.dtype) == ("eager", torch.bfloat16)
    assert hub.private == {"user/SmolLM-135M-50-characters": False}
    uploaded = load(hub.files["user/SmolLM-135M-50-characters"]["model.safetensors"])
    expected = merged_by_peft(world / "downloaded", world / "GRPO/final")
    assert uploaded.keys() == expected.keys()
    assert all(torch.equal(uploaded[name], expected[name]) for name in expected)


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(str(base), dtype="auto")
    weights: dict[str, torch.Tensor] = (
        peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    )
    return weights


def first_groups(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "completions/step-000001.jsonl").read_text().splitlines()]


def test_the_short_form_runs_as_written(tmp_path: Path, hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(model_folder(tmp_path / "base")))
    dataset = DatasetDict({"train": Dataset.from_list(POSTS)})

    from peft import LoraConfig

    from groupwise import GRPOConfig, GRPOTrainer

    def reward_len(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [-abs(50 - len(completion)) for completion in completions]

    args = GRPOConfig(
        output_dir="GRPO",
        run_name="experiment",
        learning_rate=2e-5,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_prompt_length=512,
        max_completion_length=96,
        num_generations=4,
        optim="adamw_8bit",
        num_train_epochs=1,
        bf16=True,
        report_to=["wandb"],
        remove_unused_columns=False,
        logging_steps=1,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[reward_len],
        args=args,
        train_dataset=dataset["train"],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
    )
    trainer.train()
    merged = trainer.model.merge_and_unload()
    merged.push_to_hub("user/name")

    assert trainer.state.global_step == 2
    assert set(load(hub.files["user/name"]["model.safetensors"])) == set(tiny_model().state_dict())
    assert trainer.processing_class.get_vocab() == tiny_tokenizer().get_vocab()
