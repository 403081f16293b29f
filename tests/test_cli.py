"""The commands, run as a shell runs them."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hub_stub
import pytest
import transformers
from api_helpers import model_folder, write_recipe
from peft import PeftModel

from groupwise import __version__
from groupwise.cli import main
from groupwise.runs.folder import RunFolder
from groupwise.runs.writer import RunWriter

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the Hub client's own


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; its exit code and what it said."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(autouse=True)
def _export_draws_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groupwise.export.write_report", lambda folder: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, a recipe for it, and a finished run of that recipe."""
    path = tmp_path_factory.mktemp("cli")
    recipe = write_recipe(path / "recipe.yaml", model_folder(path / "base"), output_dir=str(path / "run"))
    with pytest.raises(SystemExit):
        main(["train", str(recipe), "--quiet"])
    return path


def steps(run_folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


# --- groupwise ---


def test_help_answers_at_once_and_without_torch() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    blocked = "import sys; sys.modules['torch'] = None; from groupwise.cli import main; main(['--help'])"
    said = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert all(command in said for command in ("train", "generate", "report", "export"))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"groupwise {__version__}\n", "")


# --- train ---


def test_training_says_what_it_will_do_does_it_and_ends_with_0(place: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run("train", place / "recipe.yaml", "--set", f"output_dir={tmp_path / 'run'}", "--set", "lora.r=2")
    assert (code, err) == (0, "")
    head = [
        f"model    {place / 'base'}, training a LoRA adapter of rank 2",
        f"data     {place / 'rows.jsonl'}",
        "rewards  length",
        "step     2 prompts x 2 completions = 4 completions a step, 1 update",
        f"run      {tmp_path / 'run'}",
    ]
    assert out.splitlines()[:5] == head
    assert [out.count(said) for said in (str(place / "base"), "2 prompts x 2 completions")] == [1, 1]
    assert "2 of 2 steps done." in out
    assert steps(tmp_path / "run") == [1, 2]
    assert json.loads((tmp_path / "run/final/adapter_config.json").read_text())["r"] == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": "absent.jsonl"}, "There is no data file"),
        ({"rewards": ["absent.py:short"]}, "There is no file"),
        ({"rewards": [{"name": "exact_match", "column": "gold"}]}, "gold"),
        ({"prompts_per_step": 99}, "a step draws 99"),
    ],
)
def test_what_is_wrong_with_data_or_rewards_is_said_before_anything_else(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], says: str
) -> None:
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *args, **kwargs: pytest.fail("loaded")
    )
    recipe = write_recipe(tmp_path / "recipe.yaml", place / "base", output_dir=str(tmp_path / "runs/x"), **changes)
    code, out, err = run("train", str(recipe))
    assert (code, out) == (2, "")
    assert says in err
    assert not (tmp_path / "runs/x").exists()


def test_quiet_training_says_nothing(place: Path, tmp_path: Path, run: Run) -> None:
    assert run("train", place / "recipe.yaml", "--quiet", "--set", f"output_dir={tmp_path}") == (0, "", "")


def test_a_run_is_never_overwritten_unless_asked(place: Path, tmp_path: Path, run: Run) -> None:
    again = ("train", place / "recipe.yaml", "--set", f"output_dir={tmp_path}", "--set", "max_steps=1", "--quiet")
    assert run(*again).code == 0
    code, out, err = run(*again)
    assert (code, out) == (2, "")
    assert err.startswith(f'error: "{tmp_path}" already holds a run (1 steps recorded, 1 checkpoints)')
    assert "--overwrite" in err
    assert "--resume" in err
    assert "=True" not in err
    assert run(*again, "--overwrite").code == 0
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("names", ["recipe", "run"])
def test_a_run_is_resumed_by_its_recipe_or_by_its_folder(place: Path, tmp_path: Path, run: Run, names: str) -> None:
    start = ("--set", f"output_dir={tmp_path}", "--set", "save_steps=2", "--quiet")
    assert run("train", place / "recipe.yaml", *start).code == 0
    longer = ("--resume", "--set", "max_steps=3")
    what = (place / "recipe.yaml", *start) if names == "recipe" else (tmp_path,)
    code, _, err = run("train", *what, *longer)
    assert (code, err) == (0, "")
    assert steps(tmp_path) == [1, 2, 3]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["kind"] == "resume"] == [2]


def test_a_finished_run_is_not_loaded_to_be_resumed(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (place / "run/events.jsonl").read_bytes()
    monkeypatch.setattr("groupwise.trainer.GRPOTrainer.from_recipe", lambda *_, **__: pytest.fail("it was loaded"))
    code, out, err = run("train", place / "run", "--resume")
    assert (code, err) == (0, "")
    assert out == (
        f"Step 2 of 2: the run in {place / 'run'} has finished. To go on with it, raise max_steps (--set "
        "max_steps=NUMBER).\n"
    )
    unused = run("train", place / "run", "--resume", "--set", "learning_rate=1e-3", "--set", "max_steps=1").out
    assert unused.endswith(" No step is left that --set learning_rate=1e-3 --set max_steps=1 could change.\n")
    assert (place / "run/events.jsonl").read_bytes() == before


@pytest.mark.parametrize("last", ["resume", "upload_failed"])
def test_what_is_left_of_a_finished_run_is_resumed(place: Path, tmp_path: Path, run: Run, last: str) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    with RunWriter(RunFolder(tmp_path / "run")) as writer:
        writer.event(last, step=2)
    assert run("train", tmp_path / "run", "--resume", "--quiet") == (0, "", "")
    added = (tmp_path / "run/events.jsonl").read_text().splitlines()[-2:]
    assert [json.loads(line)["kind"] for line in added] == ["resume", "end"]


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_ctrl_c_while_loading_is_one_line(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("groupwise.trainer.GRPOTrainer.from_recipe", interrupted)
    folder = place / "run" if options else tmp_path / "run"
    changes = ("--set", f"output_dir={folder}", "--set", "max_steps=3", "--quiet")
    kept = f"the run in {folder} is as it was" if options else f"nothing was written to {folder}"
    said = f"Stopped while loading, before the first step: {kept}.\n"
    assert run("train", place / "recipe.yaml", *changes, *options) == (130, "", said)
    assert folder.exists() == bool(options)


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_ctrl_c_between_loading_and_the_first_step_is_one_line(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("groupwise.trainer.begin", interrupted)
    folder = tmp_path / "run"
    if options:
        shutil.copytree(place / "run", folder)
    changes = ("--set", f"output_dir={folder}", "--set", "max_steps=3", "--quiet")
    code, _, err = run("train", place / "recipe.yaml", *changes, *options)
    assert code == 130
    if options:
        assert err.startswith("Stopped before the next step. The checkpoint ")
        assert err.endswith(f"is as it was. To go on from it: groupwise train {folder} --resume\n")
    else:
        assert err == f"Broken off before a step was finished: there is nothing to keep in {folder}.\n"


def test_ctrl_c_ends_any_command_with_a_line(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("groupwise.export.export_run", interrupted)
    assert run("export", place / "run", "--to", place / "out") == (130, "", "Stopped.\n")


def test_a_run_finds_the_files_of_its_recipe_from_anywhere(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    recipe = write_recipe(tmp_path / "mine" / "recipe.yaml", place / "base", data="rows.jsonl", rewards=["own.py:long"])
    (tmp_path / "mine" / "own.py").write_text("def long(completions, **_):\n    return [len(c) for c in completions]\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("rows.jsonl").write_text("")  # the recipe's own goes before
    assert run("train", recipe, "--quiet", "--set", "output_dir=run").code == 0
    assert run("train", "run", "--quiet", "--resume", "--set", "max_steps=3").code == 0
    assert steps(Path("run")) == [1, 2, 3]


def test_a_run_in_use_is_refused_before_a_model_is_loaded(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groupwise.trainer.GRPOTrainer.from_recipe", lambda *_, **__: pytest.fail("it was loaded"))
    program = (
        "import sys, fcntl; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(RunFolder(place / "run").lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        for option in ("--resume", "--overwrite"):
            assert "is in use" in run("train", place / "recipe.yaml", option).err
        other.communicate(b"\n")
    assert steps(place / "run")


def test_what_cannot_be_resumed_is_said_before_a_model_is_loaded(place: Path, tmp_path: Path, run: Run) -> None:
    absent = ("--set", f"output_dir={tmp_path}", "--set", "model=./absent")
    code, _, err = run("train", place / "recipe.yaml", "--resume", *absent)
    assert (code, err) == (
        2,
        f'error: "{tmp_path}" has no checkpoint to resume from: no run was started there. '
        "Train without --resume, or look at output_dir.\n",
    )
    assert "Keep one of them" in run("train", place / "recipe.yaml", "--resume", "--overwrite").err
    assert "expected a recipe file" in run("train", tmp_path).err


def test_a_users_mistake_is_one_message_and_exit_code_2(place: Path, run: Run) -> None:
    code, out, err = run("train", place / "recipe.yaml", "--set", "learning_rat=1")
    assert (code, out) == (2, "")
    assert err == f'error: {place / "recipe.yaml"}: unknown key "learning_rat". Did you mean "learning_rate"?\n'
    assert "Traceback" not in err


INTERRUPTS = """
import signal

def reward(completions, trainer_state, **kwargs):
    if trainer_state.global_step == 1:
        for number in {signals}:
            signal.raise_signal(number)
    return [float(len(c)) for c in completions]
"""


def write_interrupting_recipe(place: Path, folder: Path, signals: list[int], **changes: object) -> Path:
    (folder / "rewards.py").write_text(INTERRUPTS.format(signals=[int(s) for s in signals]))
    changes = {"max_steps": 50, "output_dir": str(folder / "run"), **changes}
    return write_recipe(folder / "recipe.yaml", place / "base", rewards=["rewards.py:reward"], **changes)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_finishes_the_step_saves_and_says_so(
    place: Path, tmp_path: Path, run: Run, number: int, code: int
) -> None:
    outcome = run("train", write_interrupting_recipe(place, tmp_path, [number]))
    assert outcome.code == code
    assert "Stopping after this step, with a checkpoint." in outcome.out
    assert "2 of 50 steps done." in outcome.out
    assert ("Ctrl-C" in outcome.out) is (number == signal.SIGINT)
    goes_on = f"To go on from the checkpoint of step 2: groupwise train {tmp_path / 'run'} --resume"
    assert outcome.out.splitlines()[-1].startswith(f"Ended by {signal.Signals(number).name}")
    assert outcome.out.splitlines()[-1].endswith(goes_on)
    assert steps(tmp_path / "run") == [1, 2]
    assert (tmp_path / "run/checkpoint-2").is_dir()
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()
    last = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()][-2:]
    assert [event["kind"] for event in last] == ["interrupted", "end"]
    assert last[0]["signal"] == signal.Signals(number).name


def test_a_second_ctrl_c_stops_at_once_and_says_what_is_kept(place: Path, tmp_path: Path, run: Run) -> None:
    recipe = write_interrupting_recipe(place, tmp_path, [signal.SIGINT, signal.SIGINT], save_steps=1)
    code, out, err = run("train", recipe)
    assert (code, err) == (130, "Stopped.\n")
    assert f"Broken off after 1 finished step. Kept: the records in {tmp_path / 'run'}, and the checkpoint" in out
    assert out.splitlines()[-1].endswith(f"To go on from it: groupwise train {tmp_path / 'run'} --resume")
    assert steps(tmp_path / "run") == [1]
    events = [json.loads(line)["kind"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert events == ["start", "checkpoint", "interrupted"]
    handlers = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert handlers == (signal.default_int_handler, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_from_outside(place: Path, tmp_path: Path) -> None:
    """A real process, a real signal, in the middle of whatever it is doing."""
    changes = ["--set", f"output_dir={tmp_path}", "--set", "max_steps=100000"]
    command = [sys.executable, "-m", "groupwise", "train", str(place / "recipe.yaml"), *changes]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "metrics.jsonl").is_file() or not steps(tmp_path):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "")
    done = steps(tmp_path)
    assert f"{len(done)} of 100000 steps done." in out
    assert done == list(range(1, len(done) + 1))
    assert (tmp_path / f"checkpoint-{done[-1]}").is_dir()


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param("2>&1 | true; exit ${PIPESTATUS[0]}", id="nothing is read"),
        pytest.param("2>&1 | head -3; exit ${PIPESTATUS[0]}", id="three lines are read", marks=pytest.mark.slow),
        pytest.param("2> >(true)", id="no error is read", marks=pytest.mark.slow),
        pytest.param(">/dev/full 2>/dev/full", id="the disk is full", marks=pytest.mark.slow),
        pytest.param(">&- 2>&-", id="there is no output", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_whoever_reads_its_screen(place: Path, tmp_path: Path, reader: str) -> None:
    changes = ["--set", f"output_dir={tmp_path}", "--set", "max_steps=3"]
    command = [sys.executable, "-m", "groupwise", "train", str(place / "recipe.yaml"), *changes]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    shell = ["bash", "-c", f'"$@" {reader}', "bash", *command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert steps(tmp_path) == [1, 2, 3]
    assert (tmp_path / "report/index.html").is_file()


@pytest.mark.parametrize(
    "what", ["help", *(pytest.param(what, marks=pytest.mark.slow) for what in ("report", "generate", "check"))]
)
def test_other_commands_end_quietly_without_a_reader(place: Path, what: str) -> None:
    arguments = {
        "report": ["report", place / "run"],
        "generate": ["generate", place / "run", *ASK, "--num", "2"],
        "check": ["check", place / "recipe.yaml"],
        "help": ["train", "--help"],
    }[what]
    command = [sys.executable, "-m", "groupwise", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    shell = ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", *command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode in ((0, 1) if what == "check" else (0,))
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_scores_with_half_a_character_and_odd_extras_are_printed(place: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "def odd(completions, log_extra):\n"
        "    log_extra('state', [{(1, 2): {3}, 'nan': float('nan')} for _ in completions])\n"
        "    return [1.0] * len(completions)\n"
    )
    recipe = write_recipe(tmp_path / "recipe.yaml", place / "base", rewards=["odd.py:odd"])
    (tmp_path / "rows.jsonl").write_text('{"completion": "ab\\ud800", "prompt": "x"}\n')
    command = [sys.executable, "-m", "groupwise", "reward", str(recipe), "--json", "--completions"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, str(tmp_path / "rows.jsonl")], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert printed["completion"] == "ab\ud800"
    assert printed["extra"] == {"state": {"[1, 2]": [3], "nan": None}}


# --- generate ---

ASK = ("--prompt", "say one", "--max-tokens", "12", "--seed", "3")


def test_a_run_answers_with_its_adapter(place: Path, run: Run) -> None:
    greedy = ("--prompt", "say one", "--max-tokens", "12", "--temperature", "0")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "base")
    prompt = tokenizer("u/say one\na/", return_tensors="pt", return_token_type_ids=False)
    answers = {}
    for name in ("base", "run"):
        model = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
        model = PeftModel.from_pretrained(model, str(place / "run/final")) if name == "run" else model
        ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        answers[name] = tokenizer.decode(ids, skip_special_tokens=True)
    assert answers["base"] != answers["run"], "it has learnt"
    assert run("generate", place / "run", *greedy) == (0, answers["run"] + "\n", "")
    assert run("generate", place / "run/final", *greedy).out == answers["run"] + "\n"
    assert run("generate", place / "base", *greedy).out == answers["base"] + "\n"


def test_a_seed_repeats_an_answer_and_several_differ(place: Path, run: Run) -> None:
    first = run("generate", place / "base", *ASK, "--temperature", "1", "--min-p", "0")
    assert first == run("generate", place / "base", *ASK, "--temperature", "1", "--min-p", "0")
    out = run("generate", place / "base", *ASK, "--num", "2", "--temperature", "1", "--min-p", "0").out
    _, one, two = out.replace("--- 2 of 2 ---", "--- 1 of 2 ---").split("--- 1 of 2 ---\n")
    assert one != two


def test_plain_text_is_continued_and_a_chat_gets_its_template(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("groupwise.generate.generate", lambda model, tokenizer, prompt, *_, **__: asked.append(prompt))
    run("generate", place / "base", "--prompt", "hi", "--plain")
    run("generate", place / "base", "--prompt", "hi", "--system", "be brief")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    run("generate", place / "base", "--prompt", "-")
    system = {"role": "system", "content": "be brief"}
    assert asked[:2] == ["hi", [system, {"role": "user", "content": "hi"}]]
    assert asked[2] == [{"role": "user", "content": "from a pipe"}]


def test_a_run_brings_its_system_prompt_and_its_token_limit(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def answer(model: Any, tokenizer: Any, prompt: Any, sampling: Any, **_: Any) -> None:
        asked.append((prompt, sampling.max_tokens))

    monkeypatch.setattr("groupwise.generate.generate", answer)
    shutil.copytree(place / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run/run.json").read_text())
    config["recipe"] |= {"system_prompt": "One word.", "max_completion_length": 7}
    (tmp_path / "run/run.json").write_text(json.dumps(config))
    user = {"role": "user", "content": "hi"}
    of_run, mine = ({"role": "system", "content": text} for text in ("One word.", "two words"))
    for folder in (tmp_path / "run", tmp_path / "run/final"):
        run("generate", folder, "--prompt", "hi")
        assert asked.pop() == ([of_run, user], 7)
    run("generate", tmp_path / "run", "--prompt", "hi", "--system", "two words", "--max-tokens", "3")
    run("generate", tmp_path / "run", "--prompt", "hi", "--plain")
    run("generate", place / "base", "--prompt", "hi")
    assert asked == [([mine, user], 3), ("hi", 7), ([user], 256)]


def test_what_generate_cannot_do_is_said(place: Path, tmp_path: Path, run: Run) -> None:
    assert run("generate", tmp_path, *ASK).err.startswith(f"error: {tmp_path} is a folder but not a model")
    assert "needs a chat" in run("generate", place / "base", *ASK, "--plain", "--system", "be brief").err
    too_long = run("generate", place / "base", "--prompt", "long " * 60)
    assert too_long.code == 2
    assert "The prompt has 305 tokens and up to 256 are to follow, but the model's context is 256." in too_long.err


# --- report and export ---


@pytest.mark.usefixtures("real_report")
def test_report_draws_and_says_what_happened(place: Path, run: Run) -> None:
    code, out, err = run("report", place / "run")
    assert (code, err) == (0, "")
    assert "first reward (first step)" in out
    assert out.splitlines()[-1] == f"report  {place / 'run/report/index.html'}"
    assert (place / "run/report/reward.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("real_report")
def test_report_puts_what_ended_a_run_first(place: Path, tmp_path: Path, run: Run) -> None:
    once = (
        "def own(completions, trainer_state):\n    return [1 / (1 - trainer_state.global_step) for _ in completions]\n"
    )
    (tmp_path / "own.py").write_text(once)
    recipe = write_recipe(tmp_path / "recipe.yaml", place / "base", rewards=["own.py:own"], save_steps=1)
    folder = tmp_path / "run-of-recipe"
    assert run("train", recipe).code == 2
    code, out, _ = run("report", folder)
    assert code == 0
    first = out.splitlines()[0]
    assert first.startswith("The run failed after step 1: RewardError: ")
    page = (folder / "report/index.html").read_text()
    assert page.index("The run failed after step 1") < page.index("<h2>")
    assert "To go on from the checkpoint of step 1: groupwise train" in page[: page.index("<h2>")]


def test_doctor_says_what_it_found(place: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run("doctor", place / "run")
    assert (code, err) == (0, "")
    assert "tokens sampled: " in out
    assert "Nothing found" in out
    (tmp_path / "own.py").write_text("def own(completions):\n    return [1.0] * len(completions)\n")
    changes = {"rewards": ["own.py:own"], "max_steps": 6}
    recipe = write_recipe(tmp_path / "recipe.yaml", place / "base", **changes)
    trained = run("train", recipe)
    assert "Every completion of every problem gets 1.00. First change: Call the reward function" in trained.out
    code, out, _ = run("doctor", tmp_path / "run-of-recipe")
    assert code == 1
    assert "1. Every completion of every problem gets 1.00.\n   (reward_constant, steps 1 to 6, certain)" in out
    assert "first change: " in out


def test_compare_puts_runs_side_by_side(place: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run("compare", place / "run", place / "run", "--picture", tmp_path / "two.png")
    assert (code, err) == (0, "")
    assert out.startswith("After the same samples: ")
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert run("compare", place / "run").code == 2


@pytest.mark.slow
def test_report_needs_no_torch(place: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from groupwise.cli import main; "
    command = [sys.executable, "-c", blocked + f"main(['report', {str(place / 'run')!r}])"]
    assert "report  " in subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_export_writes_a_model(place: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    assert run("export", place / "run", "--merge", "--to", out, "--dtype", "bfloat16") == (0, f"model  {out}\n", "")
    assert str(transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype) == "torch.bfloat16"


def test_export_uploads_a_model(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_stub.running(monkeypatch) as hub:
        code, out, _ = run("export", place / "run", "--merge", "--push-to-hub", "user/short", "--private")
        assert (code, out) == (0, f"hub    {hub.url}/user/short\n")
    assert hub.private == {"user/short": True}
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= set(hub.files["user/short"])


@pytest.mark.usefixtures("real_report")
@pytest.mark.parametrize(
    "command", ["train", "train --resume", "check", "report", "doctor", "generate", "export", "reward"]
)
def test_a_missing_path_is_named_with_those_near_it(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(place.parent)
    wanted = f"{place.name}/" + ("rum" if command in ("report", "doctor", "generate", "export") else "recipes.yaml")
    more = {
        "generate": ASK,
        "export": ("--merge", "--to", place / "out"),
        "reward": ("--completions", place / "rows.jsonl"),
    }
    code, out, err = run(*command.split(), wanted, *more.get(command, ()))
    assert (code, out) == (2, "")
    assert "no such" in err
    assert f'Did you mean "{place.name}/{"run" if wanted.endswith("rum") else "recipe.yaml"}"?' in err


def test_export_says_what_is_missing(place: Path, tmp_path: Path, run: Run) -> None:
    assert "Give --to FOLDER" in run("export", place / "run").err
    assert "Add --merge" in run("export", place / "run", "--to", tmp_path, "--dtype", "bfloat16").err
    assert "there is no such folder" in run("export", tmp_path / "absent", "--to", tmp_path).err
