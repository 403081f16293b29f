"""The page in a real browser: it draws, follows a run, obeys the keyboard, and runs nothing that a model wrote."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, Page, find_chromium
from synthetic import make_groups, make_metrics, write_run

from groupwise.runs import RunReader, RunWriter, open_run

from .attacks import SCRIPTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("GROUPWISE_PAGE" not in os.environ, reason="it needs a Chromium: make page runs it"),
    pytest.mark.skipif(
        find_chromium() is None, reason="make page finds no Chromium; on Debian: apt-get install chromium"
    ),
]

VIEWS = ("curves", "groups", "search", "events", "recipe", "problem?run=0&problem=1", "search?run=0&text=binds&asked=1")
MARKUP = "main script, main iframe, main img, main link, main style, main svg, main math, base, head meta[http-equiv]"
NEWS_S = 2.0
MOST_OPEN = 3
"""A browser keeps six connections to a server, and a page in sight holds one of them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as found:
        yield found


@pytest.fixture
def serve() -> Iterator[object]:
    """Starts the command on run folders and returns the page's address."""
    started = []

    def start(*runs: Path) -> str:
        command = [sys.executable, "-m", "groupwise", "watch", *map(str, runs)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        found = re.search(r"http://\S+", started[-1].stdout.readline())
        assert found is not None
        return found[0]

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def view(browser: Chromium) -> Iterator[object]:
    """Opens a view and waits for it; afterwards its console has to be clean, and nothing may come from elsewhere."""
    opened: list[Page] = []

    def close(page: Page) -> None:
        assert page.run("1 + 1") == 2  # and the events up to here are heard
        page.close()
        assert page.complaints == []
        home = page.addresses[0].split("/")[2]
        assert {address.split("/")[2] for address in page.addresses if address.startswith("http")} == {home}

    def show(address: str, name: str = "curves", **options: object) -> Page:
        if len(opened) == MOST_OPEN:
            close(opened.pop(0))
        opened.append(browser.open(f"{address}#{name}", **options))
        opened[-1].wait("document.getElementById('main')?.dataset.ready", 90)  # a browser that has just started is slow
        return opened[-1]

    yield show
    while opened:
        close(opened.pop())


@pytest.mark.parametrize(("width", "is_dark"), [(1400, False), (1400, True), (390, False), (390, True)])
def test_every_view_fits_in_both_themes(serve, view, shared_run: Path, width: int, is_dark: bool) -> None:
    address = serve(shared_run)
    for name in VIEWS:
        page = view(address, name, width=width, is_dark=is_dark)
        assert page.run("document.documentElement.scrollWidth") == width, name
        assert page.run("document.getElementById('main').innerText.trim().length") > 20, name
        assert not page.run("document.querySelector('main .note.bad')"), name


def test_curves_are_drawn(serve, view, shared_run: Path) -> None:
    page = view(serve(shared_run))
    page.wait("document.querySelectorAll('.chart:not([hidden]) canvas').length >= 10")
    blank = (
        "[...document.querySelectorAll('.chart:not([hidden]) canvas')].filter(c => !new Uint32Array(c.getContext('2d')"
    )
    assert page.run(f"{blank}.getImageData(0, 0, c.width, c.height).data.buffer).some(Boolean)).length") == 0


SHOWN = {
    "curves": "document.querySelector('.where').textContent.startsWith('step 7')",
    "groups": "document.getElementById('step').value === '7' && document.querySelector('.completion')",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_new_step_is_shown_within_two_seconds(serve, view, run: Path, name: str) -> None:
    page = view(serve(run), name)
    with RunWriter(open_run(run)) as writer:
        writer.event("resume", step=6)
        page.wait("document.querySelector('.state.training')")
        groups = make_groups(7)
        writer.completions(7, groups)
        writer.step(make_metrics(7, groups))
        start = time.monotonic()
        page.wait(SHOWN[name])
        assert time.monotonic() - start < NEWS_S


def test_a_page_that_comes_back_to_sight_is_up_to_date(serve, view, run: Path) -> None:
    address = serve(run)
    page = view(address)
    view(address, "groups")
    page.wait("document.hidden")
    with RunWriter(open_run(run)) as writer:
        writer.step(make_metrics(7, make_groups(7)))
    page.call("Page.bringToFront")
    page.wait(SHOWN["curves"])


def test_a_run_that_is_rolled_back_and_deleted_under_the_page(serve, view, run: Path) -> None:
    page = view(serve(run), "groups")
    RunReader(run).cut_after(2)
    page.wait("document.getElementById('step').value === '2'")
    shutil.rmtree(run)
    page.wait("document.querySelector('.state.gone')")
    assert "what was read last" in page.run("document.getElementById('head').innerText")
    write_run(run, num_steps=3)
    page.wait("document.getElementById('step')?.value === '3'")


def test_a_server_that_ends_is_named(serve, view, run: Path, browser: Chromium) -> None:
    address = serve(run)
    page = browser.open(address)
    page.wait("document.getElementById('main')?.dataset.ready")
    page.run("fetch = () => Promise.reject(new TypeError('gone')); render()")
    page.wait("document.getElementById('head').innerText.includes('does not answer')")
    page.close()


@pytest.mark.parametrize(
    "name", ["groups", "problem?run=0&problem=0", "search?run=0&asked=1", "events", "recipe", "curves"]
)
def test_no_script_of_a_model_runs(serve, view, run: Path, name: str) -> None:
    lines = (run / "completions" / "step-000006.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    completions = [record["completions"][0] | {"text": text, "extra": {text: text}} for text in SCRIPTS]
    record |= {
        "prompt": " ".join(SCRIPTS),
        "completions": completions,
        "place": SCRIPTS[0],
        "columns": {SCRIPTS[1]: SCRIPTS[0]},
    }
    (run / "completions" / "step-000006.jsonl").write_text(json.dumps(record) + "\n")
    config = json.loads((run / "run.json").read_text())
    config["recipe"]["run_name"] = config["recipe"]["system_prompt"] = SCRIPTS[1]
    (run / "run.json").write_text(json.dumps(config))
    with RunWriter(open_run(run)) as writer:
        for text in SCRIPTS:
            writer.event("warning", step=3, message=text)
    page = view(serve(run), name)
    if name == "groups":
        page.wait(f"document.querySelectorAll('.completion').length === {len(SCRIPTS)}")
        shown = page.run("[...document.querySelectorAll('.completion pre.text')].map(pre => pre.textContent)")
        assert shown == list(SCRIPTS)
    time.sleep(0.3)
    assert page.run("window.struck ?? null") is None
    assert page.run(f"document.querySelectorAll('{MARKUP}').length") == 0


def test_the_keyboard_is_enough(serve, view, shared_run: Path) -> None:
    page = view(serve(shared_run))
    page.press("2")
    page.wait("document.getElementById('step')?.value === '40'")
    page.press("ArrowLeft")
    page.wait("document.getElementById('step')?.value === '39'")
    page.press("j")
    page.wait("document.querySelectorAll('.row')[1]?.getAttribute('aria-current') === 'true'")
    page.press("c")
    page.wait("document.getElementById('colour')?.value === 'logprob'")
    page.press("?")
    page.wait("document.getElementById('help').open")
    page.run("document.getElementById('help').close()")
    page.press("/")
    page.wait("document.activeElement.id === 'text'")


def test_two_runs_stand_in_one_picture(serve, view, run: Path, shared_run: Path) -> None:
    page = view(serve(shared_run, run))
    page.wait("document.querySelectorAll('.chart:not([hidden]) .keys span').length >= 10")
    assert page.run("document.querySelectorAll('#head .chip').length") == 2
    labels = page.run("[...document.querySelectorAll('.chart .keys')].map(keys => keys.textContent).join()")
    assert str(run) in labels
    page.press("r")
    page.wait("document.querySelector('.where').textContent.startsWith('step 6')")


def test_the_advantage_colours_tokens_without_a_tokenizer(serve, view, shared_run: Path) -> None:
    page = view(serve(shared_run), "groups?run=0&step=3&colour=advantage")
    page.wait("document.querySelectorAll('.tokens.cells .t').length > 20")
    assert page.run("getComputedStyle(document.querySelector('.t')).backgroundColor") != "rgba(0, 0, 0, 0)"
