"""`groupwise watch` and `train --watch` from the command line."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from groupwise.cli import main
from groupwise.errors import ConfigError
from groupwise.watch import chart_files, page_server

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/[\w-]{30,}/")


def test_without_the_extra_one_sentence_says_what_to_install(
    shared_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chart_files, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(["watch", str(shared_run)])
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(". ") == 1
    assert 'pip install "groupwise[watch]"' in said


def test_training_is_not_begun_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chart_files, "find_spec", lambda name: None)
    Path("rows.jsonl").write_text('{"prompt": "a"}\n' * 8)
    Path("recipe.yaml").write_text('{"data": "rows.jsonl", "rewards": ["length"], "lora": true, "output_dir": "run"}')
    with pytest.raises(SystemExit, match="2"):
        main(["train", "recipe.yaml", "--watch"])
    assert "groupwise[watch]" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["watch", str(tmp_path)])
    assert "is not a run folder" in capsys.readouterr().err.replace("\n", " ")


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with page_server.listen("127.0.0.1", None) as taken, pytest.raises(ConfigError, match="Choose another --port"):
        page_server.listen("127.0.0.1", taken.getsockname()[1])


def test_who_can_reach_an_address() -> None:
    local = [
        host
        for host in ("127.0.0.1", "localhost", "127.9.9.9", "0.0.0.0", "10.0.0.1", "box")
        if page_server.is_local(host)
    ]
    assert local == ["127.0.0.1", "localhost", "127.9.9.9"]


def test_the_command_serves_until_it_is_stopped(shared_run: Path) -> None:
    command = [sys.executable, "-m", "groupwise", "watch", str(shared_run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = ADDRESS.search(process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(address[0] + "api/runs", timeout=20) as answer:
            assert b'"name"' in answer.read()
        process.terminate()
        process.wait(20)


def test_the_page_beside_a_run_is_there_before_it_and_ends_with_it(tmp_path: Path) -> None:
    told: list[str] = []
    with page_server.beside(tmp_path / "run", told.append):
        end = time.monotonic() + 60
        while not told and time.monotonic() < end:
            time.sleep(0.05)
        (address,) = told
        assert ADDRESS.fullmatch(address)
        with urllib.request.urlopen(address + "api/runs", timeout=20) as answer:
            assert b'"state":"gone"' in answer.read()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=5)


def test_serving_needs_no_torch(shared_run: Path) -> None:
    program = (
        "import sys\nfrom groupwise.watch.app import make_app\nfrom starlette.testclient import TestClient\n"
        f"from pathlib import Path\nclient = TestClient(make_app([Path({str(shared_run)!r})], 't'))\n"
        "client.get('http://127.0.0.1/t/api/runs/0').raise_for_status()\n"
        "client.get('http://127.0.0.1/t/api/runs/0/completions/3').raise_for_status()\n"
        "print([name for name in ('torch', 'transformers', 'IPython', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
