"""What the user gets to see, the command, and that nothing is changed by looking."""

from __future__ import annotations

import ast
import hashlib
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from api_helpers import ROWS as SAID
from api_helpers import model_folder, write_recipe

from groupwise.check.check_page import page
from groupwise.check.check_screen import show
from groupwise.check.cost import mismatch_limit
from groupwise.check.finding import Finding, worst_first
from groupwise.check.result import Result
from groupwise.check.wording import agreement_line
from groupwise.cli import main
from groupwise.config import GRPOConfig, Settings
from groupwise.lifecycle.build import make_engine, make_order
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.native import NativeEngine
from groupwise.train.collect import Collector
from groupwise.types import Completion

from .planted import ROWS, SETTINGS, checked, names, policy, right

ROOT = Path(__file__).parent.parent.parent


class Terminal(io.StringIO):
    """A log file: no terminal."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def on_screen(result: Result, tmp_path: Path, encoding: str = "utf-8") -> str:
    stream = Terminal(encoding)
    show(result, tmp_path / "index.html", stream)
    text = stream.getvalue()
    text.encode(encoding)
    return text


def test_screen_and_page_say_the_same(tmp_path: Path) -> None:
    result = checked(tmp_path, [right, {"name": "length", "target": 3}], max_prompt_length=10)
    screen, html = " ".join(on_screen(result, tmp_path).split()), " ".join(page(result).split())
    for finding in result.findings:
        assert finding.name in screen
        assert finding.name in html
        assert finding.what in screen
    for text in ("FAIL", "First change:", "tags around nothing", "right and length: rank correlation", "of 23,328"):
        assert text in screen
        assert text in html
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_a_log_without_unicode_gets_the_same_words(tmp_path: Path) -> None:
    result = checked(tmp_path, say=lambda group, index: "é" if index else "1")
    assert "Findings" in on_screen(result, tmp_path, "ascii")


def test_hostile_text_is_shown_by_its_codes(tmp_path: Path) -> None:
    rows = [{**row, "prompt": row["prompt"] + "<script>\x1b[2J"} for row in ROWS]
    result = checked(tmp_path, rows=rows, run_name="\x1b]0;title\x07")
    assert "\x1b" not in on_screen(result, tmp_path)
    assert "<script>" not in page(result)


def test_what_stops_early_is_shown_too(tmp_path: Path) -> None:
    result = checked(tmp_path, prompts_per_step=9)
    assert "Set prompts_per_step: 8" in on_screen(result, tmp_path)
    assert "Set prompts_per_step: 8" in page(result)


def test_the_first_change_belongs_to_the_worst_finding_that_came_first() -> None:
    found = [Finding(level, level, "", f"{level} {i}") for i, level in enumerate(("note", "warn", "fail", "fail"))]  # type: ignore[arg-type]
    assert [each.remedy for each in worst_first(found)] == ["fail 2", "fail 3", "warn 1", "note 0"]


def digest() -> str:
    parameters = policy().model.parameters()
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()


def test_no_weight_is_changed_and_the_engine_agrees(tmp_path: Path) -> None:
    before = digest()
    engine = make_engine(policy(), policy_config(tmp_path))
    result = checked(tmp_path, {"name": "length", "target": 9}, engine=engine, weight_decay=0.1)
    assert digest() == before
    assert result.cost is not None
    assert result.cost.mismatch == pytest.approx(1, abs=1e-4)
    assert "engines_disagree" not in names(result)
    assert result.cost.mismatch_limit == 1.001
    said = " ".join(on_screen(result, tmp_path).split())
    assert "engine log-probs agree with the learner's: mean exp|difference| 1.0000 (limit 1.001)" in said


@pytest.mark.parametrize(
    ("mismatch", "limit", "says"),
    [
        (1.0123, 1.05, "log-probs agree with the learner's: mean exp|difference| 1.0123 (limit 1.05)"),
        (1.05, 1.05, "log-probs agree with the learner's: mean exp|difference| 1.0500 (limit 1.05)"),
        (1.2, 1.05, "log-probs disagree with the learner's: mean exp|difference| 1.2000 (limit 1.05)"),
        (math.nan, 1.05, "log-probs disagree with the learner's: mean exp|difference| nan (limit 1.05)"),
        (1.2, None, "log-probs against the learner's: mean exp|difference| 1.2000 (no limit, as the guards are off)"),
    ],
)
def test_the_agreement_is_told_with_its_limit(mismatch: float, limit: float | None, says: str) -> None:
    assert agreement_line(mismatch, limit) == says


@pytest.mark.parametrize(
    ("guards", "limit"),
    [({}, 1.05), ({"precision": "off"}, 1.15), ({"precision": "off", "precision_limit": "off"}, None)],
)
def test_the_limit_is_that_of_the_guards_that_are_on(guards: dict[str, str], limit: float | None) -> None:
    policy_model = SimpleNamespace(dtype=torch.bfloat16)
    run: Any = SimpleNamespace(
        policy=SimpleNamespace(policy_model=policy_model), config=GRPOConfig(guards=guards).settings
    )
    assert mismatch_limit(run) == limit


def test_the_first_step_would_sample_the_same(tmp_path: Path) -> None:
    settings = policy_config(tmp_path)
    result = checked(tmp_path, {"name": "length", "target": 9}, engine=make_engine(policy(), settings), groups=6)
    assert result.evidence is not None
    run = result.evidence.run
    collector = Collector(make_order(run.problems, settings), run.sampler, run.training_scorer, settings)
    assert collector.collect(1).groups == result.evidence.sampled.groups[: settings.prompts_per_step]


def test_an_engine_that_disagrees_is_refused(tmp_path: Path) -> None:
    class Boasting(NativeEngine):
        """Claims other log-probs than it sampled with."""

        capabilities = Capabilities("boasting")

        def generate(self, requests):  # type: ignore[no-untyped-def]
            for number, completions in super().generate(requests):
                yield number, [_louder(completion) for completion in completions]

    compute = policy().policy_model.fused
    assert compute is not None
    result = checked(tmp_path, {"name": "length", "target": 9}, engine=Boasting(compute, max_concurrent=8))
    assert "engines_disagree" in names(result, "fail")


def policy_config(tmp_path: Path) -> Settings:
    return GRPOConfig(**{**SETTINGS, "output_dir": str(tmp_path)}).settings


def _louder(completion: Completion) -> Completion:
    return replace(completion, rollout_logprob=tuple(x / 2 for x in completion.rollout_logprob))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_command_checks_writes_its_page_and_leaves_the_folder_to_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", model_folder(tmp_path / "base"))
    run = tmp_path / "run-of-recipe"
    with pytest.raises(SystemExit) as ended:
        main(["check", str(recipe)])
    assert ended.value.code == 0, capsys.readouterr()
    assert "PASS" in capsys.readouterr().out
    assert "groupwise check" in (run / "check" / "index.html").read_text()
    assert [path.name for path in run.iterdir()] == ["check"]
    with pytest.raises(SystemExit) as ended:
        main(["check", str(recipe), "--set", f"prompts_per_step={len(SAID) + 1}"])
    assert ended.value.code == 1
    with pytest.raises(SystemExit) as ended:
        main(["check", str(recipe), "--set", "num_generation=4"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), "--set", "max_steps=1", "--quiet"])
    assert ended.value.code == 0
    assert (run / "final").is_dir()
    assert (run / "check" / "index.html").is_file()


def test_every_finding_is_explained() -> None:
    docs = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    found = set()
    for file in (ROOT / "groupwise" / "check").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                found.add(ast.literal_eval(node.args[0]))
    explained = set(re.findall(r"^\| `(\w+)`", docs, re.MULTILINE))
    assert len(found) > 20
    assert found == explained
