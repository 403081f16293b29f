"""What the server answers, and what it refuses: no other file, no other host, no writing, no script."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from starlette.testclient import TestClient
from synthetic import CONFIG, make_groups, write_run

from groupwise.runs import RunReader, RunWriter, open_run
from groupwise.watch.app import make_app

from .attacks import SCRIPTS, outside_paths
from .conftest import NUM_STEPS, TOKEN, client_of

SECRET = "the words of a file outside"


def test_the_page_and_its_files_come_from_the_server_alone(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "://" not in page.text
    for name in ("uPlot.iife.js", "uPlot.min.css", "charts.js", "page.js", "watch.css"):
        assert f"static/{name}" in page.text
        assert client.get(f"/static/{name}").status_code == 200
    assert "innerHTML" not in client.get("/static/page.js").text + client.get("/static/charts.js").text


def test_every_answer_forbids_foreign_scripts(client: TestClient) -> None:
    for path in ("/", "/api/runs", "/static/page.js", "/nowhere", "/api/runs/9"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_run_in_words_and_numbers(client: TestClient) -> None:
    (run,) = client.get("/api/runs").json()
    assert (run["name"], run["last_step"], run["state"]) == ("experiment", NUM_STEPS, "ended")
    found = client.get("/api/runs/0").json()
    assert found["verdict"].startswith("The reward rose")
    assert found["functions"] == ["length", "format"]
    assert [held["label"] for held in found["held_out"]] == ["sampled", "greedy"]
    assert found["recorded_steps"]["completions"] == {"first": 1, "last": NUM_STEPS, "count": NUM_STEPS}
    assert found["last"]["reward"] == RunReader(run["path"]).metrics()[-1]["reward"]
    assert "hf_" not in json.dumps(client.get("/api/runs/0/recipe").json())


def test_curves_of_asked_for_keys(client: TestClient) -> None:
    query = {"keys": "reward\nrewards/length/mean\nnothing", "first": 11, "last": 20}
    found = client.get("/api/runs/0/curves", params=query).json()
    assert found["steps"] == list(range(11, 21))
    assert list(found["curves"]) == ["reward", "rewards/length/mean"]


def test_a_step_its_group_and_their_neighbours(client: TestClient) -> None:
    found = client.get("/api/runs/0/completions/7").json()
    assert (found["step"], found["before"], found["after"], found["num_groups"]) == (7, 6, 8, 2)
    latest = client.get("/api/runs/0/completions/999999999999").json()
    assert (latest["step"], latest["after"]) == (NUM_STEPS, None)
    group = client.get(f"/api/runs/0/completions/7/{found['groups'][1]['at']}?first=1&count=2").json()
    assert [completion["number"] for completion in group["completions"]] == [1, 2]
    tokens = client.get(f"/api/runs/0/completions/7/{found['groups'][1]['at']}/tokens").json()
    assert [len(of["is_sampled"]) for of in tokens] == found["groups"][1]["lengths"]


def test_which_answers_are_confused_in_an_evaluation(run: Path) -> None:
    script = "<script>"
    pairs = [("yes", "yes"), ("no", "yes"), (script, script)]
    group = json.loads((run / "completions" / "step-000001.jsonl").read_text().splitlines()[0])
    (completion, *_) = group.pop("completions")
    lines = [
        {**group, "kind": "greedy", "answer": answer, "completions": [completion | {"text": text}]}
        for text, answer in pairs
    ]
    (run / "evaluations").mkdir(exist_ok=True)
    (run / "evaluations" / "step-000002.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = client_of(run).get("/api/runs/0/evaluations/2").json()["confusions"]
    rows = [[script, [1, 0, 0]], ["yes", [0, 1, 1]]]
    assert found == [{"set": "", "kind": "greedy", "given": [script, "yes", "something else"], "rows": rows}]
    assert client_of(run).get("/api/runs/0/completions/2").json()["confusions"] == []


def test_a_search_and_a_problem_over_the_steps(client: TestClient) -> None:
    assert client.get("/api/runs/0/problems/1").json()["hits"][0]["step"] == NUM_STEPS
    hits = client.get("/api/runs/0/search", params={"text": "BINDS", "least": 3, "before": 4}).json()["hits"]
    assert {hit["step"] for hit in hits} == {3, 4}


def test_what_differs_between_two_runs(run: Path, tmp_path: Path) -> None:
    recipe = CONFIG["recipe"] | {"learning_rate": 1e-5, "output_dir": "elsewhere", "seed": 42}
    other = write_run(tmp_path / "other", num_steps=2, config=CONFIG | {"recipe": recipe}).path
    client = client_of(run, other)
    found = client.get("/api/differences").json()
    assert found["rows"] == [["learning_rate", "0.0005", "1e-05"]]
    assert [each["name"] for each in client.get("/api/runs").json()] == [str(run), str(other)]


def test_no_path_leads_to_another_file(run: Path) -> None:
    (run.parent / "secret.txt").write_text(SECRET)
    (run / "secret.txt").write_text(SECRET)
    client, paths = client_of(run), outside_paths()
    assert len(paths) > 500
    for path in paths:
        answer = client.get(f"http://127.0.0.1/{TOKEN}/{path}", follow_redirects=False)
        assert answer.status_code in (307, 400, 404), path
        assert SECRET not in answer.text
        assert "root:" not in answer.text
        assert "schema_version" not in answer.text


@pytest.mark.parametrize("name", ["completions/step-000099.jsonl", "evaluations/step-000099.jsonl"])
def test_a_link_out_of_the_folder_leads_nowhere(run: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.jsonl"
    group = json.loads((run / "completions" / "step-000001.jsonl").read_text().splitlines()[0])
    secret.write_text(json.dumps(group | {"prompt": SECRET}) + "\n")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(secret)
    client, kind = client_of(run), name.split("/")[0]
    for path in (f"{kind}/99", f"{kind}/99/0", f"{kind}/99/0/tokens", "search?text=outside", "problems/0"):
        assert SECRET not in client.get(f"/api/runs/0/{path}").text
    assert client.get(f"/api/runs/0/{kind}/99/0").status_code == 404


@pytest.mark.parametrize(
    "path", ["", "/", "/api/runs", "/wrong/", "/wrong/api/runs", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", "//"]
)
def test_without_the_token_there_is_nothing(client: TestClient, path: str) -> None:
    answer = client.get(f"http://127.0.0.1{path}")
    assert (answer.status_code, answer.text) == (404, "Not found.")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "10.0.0.7"])
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/runs", headers={"host": host}).status_code == 400
    assert client.get("/api/runs", headers={"host": "localhost:8765"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(client: TestClient, shared_run: Path, method: str) -> None:
    before = {path: path.read_bytes() for path in shared_run.rglob("*") if path.is_file()}
    for path in ("/", "/api/runs", "/api/runs/0", "/static/page.js"):
        assert client.request(method, path).status_code == 405
    assert {path: path.read_bytes() for path in shared_run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("query", ["points=x", "points=-1", "first=1e9", "first=" + "9" * 4000, "last=%00"])
def test_a_query_that_makes_no_sense_is_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/api/runs/0/curves?keys=reward&{query}").status_code == 404


def test_numbers_beyond_all_bounds_are_no_error_of_the_server(client: TestClient) -> None:
    for path in ("runs/0/completions/" + "9" * 100, "runs/0/completions/1/" + "9" * 100, "runs/" + "9" * 100):
        assert client.get(f"/api/{path}").status_code in (200, 404)
    assert client.get("/api/runs/" + "9" * 5000).status_code == 404


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_model_wrote_is_data_and_no_markup(run: Path, script: str) -> None:
    path = run / "completions" / "step-000001.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    record["prompt"] = record["completions"][0]["text"] = record["columns"]["reference"] = script
    path.write_text(json.dumps(record) + "\n")
    answer = client_of(run).get("/api/runs/0/completions/1/0")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["completions"][0]["text"] == script
    assert script not in client_of(run).get("/").text


def test_half_characters_and_numbers_that_json_has_not_are_answered(run: Path) -> None:
    path = run / "completions" / "step-000001.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    record["completions"][0] |= {"text": "\ud83d half", "advantage": float("nan")}
    path.write_text(json.dumps(record) + "\n")
    completion = client_of(run).get("/api/runs/0/completions/1/0").json()["completions"][0]
    assert completion["text"] == "\ud83d half"
    assert completion["advantage"] is None


def test_news_come_as_events(run: Path) -> None:
    """The stream sends the state at once, and again after a new step."""

    async def listen() -> list[int]:
        app, seen = make_app([run], TOKEN), []
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "path": f"/{TOKEN}/api/events", "raw_path": b"", "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(b"host", b"127.0.0.1")], "client": None, "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip
        gone = anyio.Event()

        async def receive() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            body = bytes(message.get("body", b""))  # type: ignore[arg-type]
            if body.startswith(b"data: "):
                seen.append(json.loads(body[6:])[0]["last_step"])
                if len(seen) == 1:
                    with RunWriter(open_run(run)) as writer:
                        writer.step({"step": 7, "reward": 1.0})
                if seen[-1] == 7:
                    gone.set()

        with anyio.fail_after(20):
            await app(scope, receive, send)
        return seen

    assert anyio.run(listen) == [6, 7]


def test_a_page_that_stays_open_costs_no_history(run: Path) -> None:
    client = client_of(run)
    first = client.get("/api/runs/0").json()["changes"]
    assert client.get("/api/runs/0").json()["changes"] == first
    with RunWriter(open_run(run)) as writer:
        writer.completions(6, make_groups(6))
        assert client.get("/api/runs/0").json()["changes"] > first
