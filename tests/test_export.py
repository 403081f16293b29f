"""What leaves a run: plain folders and Hub repositories that need no groupwise."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_stub
import pytest
import torch
import transformers
from api_helpers import ROWS, config, model_folder, short, trainer, write_recipe
from hub_stub import OTHER_TOKEN, TOKEN, HubStub
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load, load_file
from tiny import tiny_model, tiny_tokenizer, with_lora

from groupwise import GRPOTrainer
from groupwise.config import load_recipe
from groupwise.errors import ConfigError, RunError
from groupwise.export import export_run
from groupwise.report import write_report

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the Hub client's own
IDS = torch.tensor([[5, 9, 12, 30, 7]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a base model and a finished run of an adapter on it, with its report."""
    path = tmp_path_factory.mktemp("export")
    recipe = load_recipe(write_recipe(path / "recipe.yaml", model_folder(path / "base"), output_dir=str(path / "run")))
    GRPOTrainer.from_recipe(recipe).train()
    write_report(path / "run")
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    with hub_stub.running(monkeypatch) as stub:
        yield stub


def trained(place: Path) -> Any:
    base = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    return PeftModel.from_pretrained(base, str(place / "run/final"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits  # type: ignore[no-any-return]


def test_a_merged_folder_is_the_trained_model_in_plain_transformers(place: Path, tmp_path: Path) -> None:
    folder = export_run(place / "run", tmp_path / "out", merge=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(model), logits(trained(place)), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(model), logits(tiny_model()), atol=1e-2), "it has learnt"
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == 1
    assert transformers.AutoTokenizer.from_pretrained(folder).chat_template == tiny_tokenizer(chat=True).chat_template
    names = {"README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"}
    assert {p.name for p in folder.iterdir()} == names | {"reward.png", "tokenizer.json", "tokenizer_config.json"}


def test_merged_weights_can_be_half_as_large(place: Path, tmp_path: Path) -> None:
    exact = load_file(export_run(place / "run", tmp_path / "exact", merge=True) / "model.safetensors")
    half = load_file(
        export_run(place / "run", tmp_path / "half", merge=True, dtype=torch.bfloat16) / "model.safetensors"
    )
    assert all(torch.equal(half[name], exact[name].bfloat16()) for name in exact)


def test_without_merging_the_adapter_is_written(place: Path, tmp_path: Path) -> None:
    folder = export_run(place / "run", tmp_path / "out", merge=False)
    adapter = PeftModel.from_pretrained(tiny_model(), str(folder))
    assert torch.equal(logits(adapter), logits(trained(place)))


def test_a_model_trained_in_full_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groupwise.export.write_report", lambda folder: None)
    run = trainer(tmp_path / "run", max_steps=1)
    run.train()
    for merge in (True, False):
        folder = export_run(tmp_path / "run", tmp_path / f"out-{merge}", merge=merge)
        assert torch.equal(logits(transformers.AutoModelForCausalLM.from_pretrained(folder)), logits(run.model))


def test_the_card_says_what_was_done_and_shows_the_curve(place: Path, tmp_path: Path) -> None:
    folder = export_run(place / "run", tmp_path / "out", merge=True)
    card = (folder / "README.md").read_text()
    for part in ("base", "rows.jsonl", "length", "GRPO (DeepSeekMath", "`learning_rate`", "![Reward", "(reward.png)"):
        assert part in card
    assert (folder / "reward.png").read_bytes() == (place / "run/report/reward.png").read_bytes()


def test_no_file_of_a_merged_folder_names_this_machine(place: Path, tmp_path: Path) -> None:
    folder = export_run(place / "run", tmp_path / "out", merge=True)
    for file in folder.iterdir():
        assert str(place).encode() not in file.read_bytes(), file.name


def test_an_earlier_export_is_written_over_where_that_is_asked_for(place: Path, tmp_path: Path) -> None:
    adapter = export_run(place / "run", tmp_path / "out", merge=False)
    with pytest.raises(RunError, match=r"not an empty folder.*--overwrite writes over an earlier export"):
        export_run(place / "run", adapter, merge=True)
    merged = export_run(place / "run", adapter, merge=True, overwrite=True)
    fresh = export_run(place / "run", tmp_path / "fresh", merge=True)
    assert {file.name for file in merged.iterdir()} == {file.name for file in fresh.iterdir()}
    (merged / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        export_run(place / "run", merged, merge=True, overwrite=True)
    assert (merged / "model.safetensors").is_file()


def test_a_folder_with_something_in_it_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not an empty folder"):
        export_run(place / "run", tmp_path, merge=True)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def with_norms(base: Any) -> Any:
    model = with_lora(base, is_learnt=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "norm" in name)
    return model


def with_second(base: Any) -> Any:
    model = with_lora(base)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.set_adapter("second")
    return model


ADAPTED = {
    "norms trained beside": with_norms,
    "another name": lambda base: get_peft_model(base, LORA, adapter_name="policy"),
    "a second adapter": with_second,
    "on a tied head": lambda base: with_lora(base, target_modules=["q_proj", "lm_head"], is_learnt=False),
    "on a tied embedding": lambda base: with_lora(base, target_modules=["embed_tokens"], is_learnt=False),
}
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|same adapter)")
@pytest.mark.parametrize("name", ADAPTED)
def test_every_export_of_a_trained_adapter_is_the_trained_model(name: str, tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", tie_word_embeddings=True)
    model = ADAPTED[name](transformers.AutoModelForCausalLM.from_pretrained(base))
    before = logits(model)
    run = trainer(tmp_path / "run", model=model, max_steps=3, learning_rate=3e-2)
    run.train()
    expected = logits(run.model)
    assert (expected - before).abs().max() > 0.01, "something was learnt"
    write_report(tmp_path / "run")
    for merge in (False, True):
        to = export_run(tmp_path / "run", tmp_path / f"merge-{merge}", merge=merge)
        alone = transformers.AutoModelForCausalLM.from_pretrained(base if not merge else to)
        found = alone if merge else PeftModel.from_pretrained(alone, str(to))
        torch.testing.assert_close(logits(found), expected, atol=2e-5, rtol=0)


def test_a_run_without_a_final_model_says_how_to_get_one(tmp_path: Path) -> None:
    def fail_late(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
        if trainer_state.global_step == 1:
            raise KeyboardInterrupt
        return short(completions)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", rewards=fail_late, save_steps=1).train()
    with pytest.raises(RunError, match=r"has no trained model yet.*last checkpoint is checkpoint-1.*--resume"):
        export_run(tmp_path / "run", tmp_path / "out", merge=True)


@pytest.mark.slow
def test_a_stranger_loads_it_without_groupwise(place: Path, tmp_path: Path) -> None:
    folder = export_run(place / "run", tmp_path / "out", merge=True)
    program = (
        "import sys; sys.modules['groupwise'] = sys.modules['peft'] = None\n"
        "from transformers import pipeline\n"
        f"generate = pipeline('text-generation', model={str(folder)!r})\n"
        "chat = [{'role': 'user', 'content': 'say one'}]\n"
        "print(generate(chat, max_new_tokens=8, do_sample=False)[0]['generated_text'][-1]['content'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    tokenizer, model = tiny_tokenizer(chat=True), trained(place)
    prompt = torch.tensor([tokenizer.encode("u/say one\na/")])
    with torch.no_grad():
        ids = model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
    assert done.stdout.rstrip("\n") == tokenizer.decode(ids, skip_special_tokens=True).rstrip("\n")


# --- the Hub ---


def test_pushing_a_merged_model_sends_everything_a_stranger_needs(place: Path, hub: HubStub) -> None:
    run = finished_trainer(place, "user/short")
    assert run.push_to_hub("all", merge=True, private=True) == f"{hub.url}/user/short"
    files = hub.files["user/short"]
    assert hub.private == {"user/short": True}
    wanted = {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "report/reward.png"}
    assert wanted <= set(files)
    expected = run.model.merge_and_unload().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load(files["model.safetensors"]).items())
    assert 'model="user/short"' in hub.text("user/short", "README.md")
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "<eos>"
    assert not any(TOKEN.encode() in content for content in files.values())


def test_pushing_an_adapter_names_its_base_as_the_user_did(place: Path, hub: HubStub) -> None:
    finished_trainer(place, "short").push_to_hub()
    files = hub.files["user/short"]
    assert "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "base"
    assert not any(str(place).encode() in content for content in files.values())
    assert set(load(files["adapter_model.safetensors"])) == set(
        load_file(place / "run/final/adapter_model.safetensors")
    )


def test_a_push_means_what_it_means_in_the_ecosystem(place: Path, hub: HubStub) -> None:
    """The first argument is the message; the other keywords are the Hub's and those of the card."""
    run = finished_trainer(place, "user/short")
    assert run.push_to_hub("final checkpoint") == f"{hub.url}/user/short"
    run.push_to_hub()
    run.push_to_hub(commit_message="a branch", token=OTHER_TOKEN, revision="dev", private=True, blocking=True)
    messages = ["final checkpoint", "End of training", "a branch"]
    branches = ["main", "main", "dev"]
    assert hub.commits == [("user/short", b, m) for b, m in zip(branches, messages, strict=True)]
    assert hub.files.keys() == {"user/short"}, "nothing is published under another name"
    assert OTHER_TOKEN in hub.tokens
    waiting = run.push_to_hub(
        "in the background", blocking=False, model_name="A short one", dataset_name="me/data", tags=["mine", "grpo"]
    )
    assert waiting.result(30) == f"{hub.url}/user/short"
    card = hub.text("user/short", "README.md")
    assert "# A short one\n" in card
    assert 'tags:\n- grpo\n- groupwise\n- "mine"\ndatasets' in card
    assert 'datasets:\n- "me/data"' in card
    assert "![Reward at each step](report/reward.png)" in card
    with pytest.raises(ConfigError, match=r"create_model_card\(language\) is not supported"):
        run.push_to_hub(language="en")
    with pytest.raises(ConfigError, match=r"create_model_card\(langage\) is not known"):
        run.push_to_hub(langage="en")


def test_without_a_name_the_repository_is_called_as_the_folder(place: Path, hub: HubStub) -> None:
    run = trainer(place / "run", model=trained(place))
    run.push_to_hub("me/other")
    assert hub.files.keys() == {"user/run"}
    run.hub_model_id = "user/later"
    run.push_to_hub()
    assert hub.files.keys() == {"user/run", "user/later"}


def test_a_subclass_writes_its_own_card_and_files(place: Path, hub: HubStub) -> None:
    class Mine(GRPOTrainer):
        _tag_names = ("mine",)

        def create_model_card(self, model_name: Any = None, dataset_name: Any = None, tags: Any = None) -> None:
            super().create_model_card(model_name, dataset_name, tags)
            card = self.output_dir / "README.md"
            card.write_text(card.read_text() + "More of mine.\n")

        def save_model(self, output_dir: Any = None, _internal_call: bool = False) -> Path:
            folder = super().save_model(output_dir, _internal_call)
            (folder / "mine.txt").write_text("mine")
            return folder

    settings = config(place / "run", hub_model_id="user/mine")
    Mine(trained(place), short, settings, ROWS, processing_class=tiny_tokenizer(chat=True)).push_to_hub()
    assert hub.text("user/mine", "README.md").endswith("More of mine.\n")
    assert '- "mine"' in hub.text("user/mine", "README.md")
    assert hub.text("user/mine", "mine.txt") == "mine"


def test_before_a_run_there_is_no_card(tmp_path: Path, hub: HubStub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        trainer(tmp_path / "new", model=with_lora(tiny_model())).push_to_hub()
    assert "There is no run to describe yet" in caplog.text
    assert "README.md" not in hub.files["user/new"]


def finished_trainer(place: Path, name: str) -> GRPOTrainer:
    """A trainer whose output folder holds the finished run, which is uploaded under that name."""
    return trainer(place / "run", model=trained(place), hub_model_id=name)


def test_a_run_uploads_itself_when_it_ends(tmp_path: Path, hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groupwise.export.write_report", lambda folder: None)
    settings = {"push_to_hub": True, "hub_model_id": "user/own", "hub_private_repo": True}
    trainer(tmp_path, model=with_lora(tiny_model()), max_steps=1, **settings).train()
    assert hub.private == {"user/own": True}
    sent = load(hub.files["user/own"]["adapter_model.safetensors"])
    saved = load_file(tmp_path / "final/adapter_model.safetensors")
    assert all(torch.equal(sent[name], saved[name]) for name in saved)


def test_who_may_not_write_is_told_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        hub_stub.running(monkeypatch, token=None) as hub,
        pytest.raises(RunError, match=r'(?s)as "user/short": .*401.*Nothing is lost.*hf auth login'),
    ):
        finished_trainer(place, "user/short").push_to_hub(merge=True)
    assert hub.files == {}


def test_an_upload_that_fails_or_hangs_costs_a_finished_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, one event with the way to push later; model and records are there and training has returned."""
    monkeypatch.setattr("groupwise.export.write_report", lambda folder: None)
    released = threading.Event()
    with hub_stub.running(monkeypatch) as hub:
        monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *args, **kwargs: released.wait())
        monkeypatch.setattr("groupwise.export._patience", lambda folder: 0.2)
        run = trainer(tmp_path, model=with_lora(tiny_model()), max_steps=1, push_to_hub=True, hub_model_id="user/own")
        with pytest.warns(UserWarning, match=r"did not end within 0\.2 s.*[\s\S]*groupwise export RUN .* --push"):
            assert run.train().global_step == 1
        released.set()
    assert hub.files == {}
    assert (tmp_path / "final/adapter_model.safetensors").is_file()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in events][-2:] == ["end", "upload_failed"]
    assert TOKEN not in (tmp_path / "events.jsonl").read_text()


def test_a_hub_that_cannot_be_reached_is_told_within_seconds(place: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match=r"(?s)could not be uploaded.*switched off \(HF_HUB_OFFLINE\).*Nothing is lost"):
        finished_trainer(place, "user/short").push_to_hub()
    assert time.monotonic() - began < 5


def test_a_name_that_is_none_is_refused(place: Path, hub: HubStub) -> None:
    with pytest.raises(RunError, match=r'could not be uploaded to the Hub as "my model"'):
        finished_trainer(place, "my model").push_to_hub()
