"""What SECURITY.md promises: no foreign code runs, no file is written elsewhere, no token is kept, nothing listens."""

from __future__ import annotations

import ast
import json
import logging
import os
import pickle
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import SETTINGS, model_folder, short, yaml_text
from tiny import tiny_model, tiny_tokenizer, with_lora
from transformers import LlamaConfig, LlamaForSequenceClassification

from groupwise import GRPOConfig, GRPOTrainer
from groupwise.chat import render_chat
from groupwise.config import load_recipe
from groupwise.config.yaml_file import parse
from groupwise.data import load_problems
from groupwise.errors import ConfigError, DataError, GroupwiseError, ModelError, RunError
from groupwise.export import export_run
from groupwise.generate import load_trained
from groupwise.notes import shown_by
from groupwise.policy.load_model import load_model, load_tokenizer
from groupwise.policy.save import save_policy
from groupwise.redact import redact, without_hidden, without_secrets
from groupwise.report import write_report
from groupwise.rewards.model import RewardModel

ROOT = Path(__file__).parents[1]
INSIDE = ROOT / "groupwise/rewards/sandbox/inside"
"""What runs in the sandbox, apart from this process (docs/sandbox.md); how its messages are framed runs here too."""
OUTSIDE = [file for file in (ROOT / "groupwise").rglob("*.py") if INSIDE not in file.parents]
_IMPORTED = re.compile(r"sandbox\.inside(?:\.(\w+)| import (\w+))")
SHARED = {"".join(found) for file in OUTSIDE for found in _IMPORTED.findall(file.read_text(encoding="utf-8"))}
"""Modules of the inside that this process imports as well."""
FILES = sorted([*OUTSIDE, *(INSIDE / f"{name}.py" for name in SHARED)])
CPU = torch.device("cpu")

# --- no foreign code runs ---

RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "cPickle.load", "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open",
    "torch.load", "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "pandas.read_pickle", "pd.read_pickle", "np.load", "numpy.load", "code.interact",
    "runpy.run_path", "runpy.run_module",
}  # fmt: skip
LISTENS = {"http.server", "socketserver", "wsgiref", "xmlrpc", "aiohttp", "flask", "fastapi", "uvicorn"}
MAY = {
    ("rewards/import_function.py", "import_module(name)"),  # module:function, a reward that the user names
    ("rewards/parameters.py", "import_module(module)"),  # from a table of its own
    ("__init__.py", "import_module(_HOMES[name])"),  # likewise
    ("rewards/__init__.py", "import_module(_HOMES[name])"),  # likewise
    ("trl/__init__.py", "import_module(HOMES[name])"),  # likewise
    ("trl/names.py", "import_module(module)"),  # likewise
    ("rewards/shipped/__init__.py", "import_module(HOMES[kind])"),  # likewise
    ("ranks.py", "import pickle"),  # between the ranks of one run, which run the same program
    ("ranks.py", "pickle.loads"),
    ("watch/page_server.py", "import uvicorn"),  # the page that the user asks for, at this machine's own address
    ("watch/page_server.py", "found.bind"),
    ("watch/page_server.py", "found.listen"),
    ("serving.py", "probe.bind"),  # whether a port is free; it is closed again
}


def is_fixed(argument: ast.expr) -> bool:
    """Whether a module's name is written out, or at least that it is one of ours."""
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
    return isinstance(first, ast.Constant) and (first is argument or str(first.value).startswith("groupwise."))


def complaints(source: str) -> list[str]:
    """What of a source text this project does not do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in RUNS_CODE:
                found.append(name)
            if name.endswith("import_module") and not is_fixed(node.args[0]):
                found.append(f"import_module({ast.unparse(node.args[0])})")
            if keywords.get("shell", "False") != "False":
                found.append(f"{name}(shell=True)")
            if name == "YAML" and keywords.get("typ") != "'safe'":
                found.append(ast.unparse(node))
            if keywords.get("allow_pickle") == "True" or keywords.get("weights_only") == "False":
                found.append(f"{name} of pickles")
            if name.endswith((".listen", ".bind", "start_server")) and not name.startswith("inspect.signature("):
                found.append(name)
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"import {name}" for name in names if name in LISTENS or name.split(".")[0] in ("pickle", "dill")]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "groupwise")))
def test_nothing_in_the_package_runs_what_it_reads_or_listens(file: Path) -> None:
    place = str(file.relative_to(ROOT / "groupwise"))
    assert [c for c in complaints(file.read_text(encoding="utf-8")) if (place, c) not in MAY] == []


def test_nothing_that_runs_code_is_shared_with_the_sandbox() -> None:
    """What is shared is under the walk above; what runs answers is not shared, and would not pass it."""
    assert SHARED.isdisjoint({"run", "check", "serve", "main", "score"})
    assert complaints((INSIDE / "run_program.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    ["eval(x)", "torch.load(f)", "pickle.loads(b)", "yaml.load(t)", "YAML(typ='unsafe')", "YAML()",
     "run(c, shell=True)", "import_module(x)", "import pickle",
     "from http.server import HTTPServer", "s.listen(1)", "np.load(f, allow_pickle=True)"],
)  # fmt: skip
def test_the_walk_has_teeth(source: str) -> None:
    assert complaints(source)


def test_every_yaml_is_read_by_a_safe_loader() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse("!!python/object/apply:os.system [true]")


class Trap:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "base")


def as_pickle(folder: Path, mark: Path) -> Path:
    """The same folder with its weights as a pickle that is a trap."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    return folder


def test_a_model_that_is_a_pickle_is_refused_with_a_way_out(base: Path, tmp_path: Path) -> None:
    as_pickle(base, tmp_path / "ran")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*reads safetensors only.*save_pretrained"):
        load_model(str(base), device=CPU, full=True)
    assert not (tmp_path / "ran").exists()


def test_safetensors_cannot_be_switched_off(base: Path) -> None:
    with pytest.raises(ModelError, match="use_safetensors"):
        load_model(str(base), device=CPU, full=True, init_kwargs={"use_safetensors": False})


def reward_model_folder(path: Path) -> Path:
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_labels=1, pad_token_id=0)  # fmt: skip
    return save_policy(LlamaForSequenceClassification(config), tiny_tokenizer(), path)


def test_a_reward_model_that_is_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = as_pickle(reward_model_folder(tmp_path / "judge"), tmp_path / "ran")
    with pytest.raises(ModelError, match="safetensors"):
        RewardModel(str(folder)).load()
    assert not (tmp_path / "ran").exists()


def test_an_adapter_that_is_a_pickle_is_refused(base: Path, tmp_path: Path) -> None:
    folder = save_policy(with_lora(tiny_model()), tiny_tokenizer(), tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(RunError, match=r"reads no pickles \(\.bin\)"):
        load_trained(str(folder), device=CPU)
    assert not (tmp_path / "ran").exists()


def with_own_code(folder: Path, mark: Path) -> Path:
    """The same folder with code of its own for configuration, model and tokenizer."""
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    for name, entries in (
        ("config.json", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own",
                         "AutoModelForSequenceClassification": "own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", "own.Own"]}),
    ):  # fmt: skip
        content = json.loads((folder / name).read_text())
        for key in ("tokenizer_class", "model_type"):
            content.pop(key, None)
        (folder / name).write_text(json.dumps({**content, "model_type": "own", "auto_map": entries}))
    return folder


def test_code_that_comes_with_a_model_is_not_run_unless_asked(base: Path, tmp_path: Path) -> None:
    folder, mark = str(with_own_code(base, tmp_path / "ran")), tmp_path / "ran"
    for load in (
        lambda: load_model(folder, device=CPU, full=True),
        lambda: load_tokenizer(folder),
        lambda: RewardModel(folder).load(),
        lambda: RewardModel(tiny_model(), tokenizer=folder).load(),
        lambda: load_trained(folder, device=CPU),
    ):
        with pytest.raises(ModelError):
            load()
        assert not mark.exists()
    with pytest.raises(ModelError):  # now it was asked for, and what it brings is no model
        load_model(folder, device=CPU, full=True, trust_remote_code=True)
    assert mark.exists(), "the trap works"


def test_a_data_set_brings_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "set").mkdir()
    (tmp_path / "set/set.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(DataError):
        load_problems(str(tmp_path / "set"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__['sys'] }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set _ = messages.append(1) %}",
    ],
)
def test_chat_templates_run_in_a_sandbox(template: str) -> None:
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = template
    with pytest.raises(DataError, match="template refused"):
        render_chat(tokenizer, [{"role": "user", "content": "hi"}])


# --- one run with everything planted that could leak or lead astray ---

SECRETS = {
    "HF_TOKEN": "hf_PlantedTokenOfTheHub000000000000",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "OPENAI_API_KEY": "planted-openai-key-without-any-shape",
    "MY_SERVICE_TOKEN": "planted/service+token==",
    "SECRET_OF_MINE": "planted secret with spaces",
    "DB_PASSWORD": "planted!password",
}
IN_ADDRESS, IN_KWARGS = "planted-password-in-an-address", "planted-token-in-model-init-kwargs"
PLANTED = [*SECRETS.values(), IN_ADDRESS, IN_KWARGS]
ASTRAY = "../../astray/x"
SCRIPT = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'`"
_listening: list[Any] | None = None


def _watch(event: str, arguments: Any) -> None:
    if _listening is not None and event == "socket.bind":
        _listening.append(arguments)


sys.addaudithook(_watch)


def reward_that_tells(completions: list[str], log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
    log_metric(f"{ASTRAY}-metric", 1.0)
    log_extra(f"{ASTRAY}-extra", [SCRIPT] * len(completions))
    return short(completions)


reward_that_tells.__name__ = ASTRAY


class Planted:
    """The finished run and all that was said on the way."""

    def __init__(self, place: Path, said: str, listening: list[Any]) -> None:
        self.place, self.run, self.said, self.listening = place, place / "inner/run", said, listening

    @property
    def files(self) -> list[Path]:
        return [path for path in self.place.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """A run whose names, data, environment and arguments are all hostile, with its report and its exported model."""
    global _listening
    place = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        said: list[str] = []
        _listening = []
        patch.setattr("groupwise.runs.plain_screen.PlainScreen._print", lambda self, text: said.append(text))
        base = model_folder(place / "base", chat=True)
        rows = [{"prompt": f"{SCRIPT} {i}", ASTRAY: SCRIPT, "answer": SECRETS["OPENAI_API_KEY"][:3]} for i in range(6)]
        config = GRPOConfig(
            output_dir=str(place / "inner/run"), run_name=f"{ASTRAY} https://me:{IN_ADDRESS}@host/ {SCRIPT}",
            model_init_kwargs={"token": IN_KWARGS, "revision": None}, report_to="tensorboard", **SETTINGS,
        )  # fmt: skip
        trainer = GRPOTrainer(str(base), [reward_that_tells], config, rows)
        with shown_by(trainer.screen.note):
            logging.getLogger("groupwise").info(f"what somebody else said: Bearer {SECRETS['WANDB_API_KEY']}")
        trainer.train()
        write_report(place / "inner/run")
        with shown_by(said.append):
            export_run(place / "inner/run", place / "inner/out", merge=True)
        listening, _listening = _listening, None
        yield Planted(place, "\n".join(said), listening)


def test_no_token_stands_in_any_file_or_line(planted: Planted) -> None:
    assert len(planted.files) > 15
    for secret in PLANTED:
        holders = [str(path) for path in planted.files if secret.encode() in path.read_bytes()]
        assert holders == [], secret
        assert secret not in planted.said
    assert "what somebody else said: Bearer ***" in planted.said
    assert "***" in (planted.run / "run.json").read_text()


def test_no_file_is_written_beside_the_run(planted: Planted) -> None:
    assert {path.name for path in planted.place.iterdir()} == {"base", "inner"}
    assert {path.name for path in (planted.place / "inner").iterdir()} == {"run", "out"}
    assert not list(planted.place.parent.glob("astray*"))
    assert not [path for path in planted.files if "astray" in str(path)]


def test_nothing_listens(planted: Planted) -> None:
    assert planted.listening == []


class Elements(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_the_report_shows_what_was_sampled_as_text(planted: Planted) -> None:
    page = (planted.run / "report/index.html").read_text()
    elements = Elements(page)
    assert "owned" in page, "the prompt is on the page"
    assert not [tag for tag, _ in elements.tags if tag == "script"] or "document.title" not in page
    assert not [a for _, attributes in elements.tags for a in attributes if a.startswith("on")]
    assert all((a.get("src") or "").startswith("data:") for tag, a in elements.tags if tag == "img")


def test_a_template_cannot_be_saved_elsewhere(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "x", "../../astray": "y"}
    with pytest.raises((ValueError, OSError)):
        save_policy(tiny_model(), tokenizer, tmp_path / "inner/model")
    assert not list(tmp_path.rglob("astray*"))


@pytest.mark.parametrize(
    "name", ["..", "a/..", "../a", "a/../../b", "a b", "a\\b", "/etc", "pypi:../x", "pypi:x==../y"]
)
def test_a_name_is_no_way_out_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GROUPWISE_CACHE", str(tmp_path / "deep/cache"))
    with pytest.raises(ModelError):
        load_tokenizer(name)
    assert {path.name for path in tmp_path.iterdir()} <= {"deep"}
    assert {path.name for path in (tmp_path / "deep").glob("*")} <= {"cache"}


# --- what counts as a secret ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("git+https://me:pw@host/x.git", "git+https://***@host/x.git"),
        ("Looking in indexes: https://user:pa55@pypi.host/simple", "Looking in indexes: https://***@pypi.host/simple"),
        ("GET /x?a=1&token=abc&b=2", "GET /x?a=1&token=***&b=2"),
        ("Authorization: Bearer abcdefghijk", "Authorization: Bearer ***"),
        ("use hf_abcdefghijklmnopqrst now", "use *** now"),
        ("ghp_abcdefghijklmnopqrst", "***"),
        ("the pad_token is <pad>, see https://host/a@b and a@b.org", None),
        ("mask_NT x 3; sk-learn; hf_hub; commit 0123456789abcdef", None),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_nothing_else(text: str, shown: str | None) -> None:
    assert redact(text) == (text if shown is None else shown)


def test_secrets_of_the_environment_are_hidden_and_short_values_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEY", "1")
    monkeypatch.setenv("DEPLOY_TOKEN", "correct horse")
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    assert redact("correct horse 1 qwertyuiop") == "*** 1 qwertyuiop"
    assert str(GroupwiseError("it said: correct horse")) == "it said: ***"


def test_keys_of_secrets_are_hidden_and_tokens_of_text_are_not() -> None:
    given = {"token": "a", "hub_token": "b", "WANDB_API_KEY": "c", "x": [{"password": "d"}], "aws_secret": "f"}
    kept = {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "num_tokens": 5,
        "unit": "token",
        "key": "answer",
        "token_type": 1,
    }
    assert without_secrets({**given, **kept}) == {
        "token": "***", "hub_token": "***", "WANDB_API_KEY": "***", "x": [{"password": "***"}], "aws_secret": "***",
        **kept,
    }  # fmt: skip
    assert without_hidden(without_secrets({**given, "seed": 1})) == {"x": [{}], "seed": 1}


def test_a_recorded_recipe_is_resumed_without_the_tokens_it_could_not_keep(planted: Planted) -> None:
    recorded = json.loads((planted.run / "run.json").read_text())["recipe"]
    assert recorded["model_init_kwargs"]["token"] == "***"
    assert "token" not in without_hidden(recorded)["model_init_kwargs"]


def test_the_token_of_a_recipe_reaches_the_loader_and_no_message(base: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        yaml_text({"model": str(base), "data": "python-docs", "rewards": ["length"], "temperatur": 1,
                        "model_init_kwargs": {"token": IN_KWARGS}})
    )  # fmt: skip
    with pytest.raises(ConfigError) as raised:
        load_recipe(tmp_path / "r.yaml")
    assert IN_KWARGS not in str(raised.value)


def test_the_tokenizer_comes_from_the_revision_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda path, **kwargs: asked.update(kwargs))
    load_tokenizer("owner/name", init_kwargs={"revision": "v2", "token": "t", "dtype": "x"})
    assert asked == {"revision": "v2", "token": "t", "trust_remote_code": False}


def test_no_pickled_weights_are_sent_to_be_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would post the name of the repository and the user's token to a service."""
    seen: list[str | None] = []

    def load(path: str, **kwargs: Any) -> None:
        seen.append(os.environ.get("DISABLE_SAFETENSORS_CONVERSION"))
        assert kwargs["use_safetensors"] is True
        raise OSError("no safetensors")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(ModelError):
        load_model("owner/name", device=CPU, full=True)
    assert seen == ["1"]
    assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ
