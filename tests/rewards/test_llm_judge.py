"""The language model as a judge, against a local server: what is asked, retried, kept, counted and never written."""

from __future__ import annotations

import time

import pytest

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.llm import endpoint
from groupwise.rewards.llm.llm_score import read_score

from .chat_server import chat_server, completion
from .groups import CHAT, make_group

pytestmark = pytest.mark.filterwarnings("ignore:Reward llm_judge. no reply")
KEY = "sk-secret-0123456789abcdef"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUDGE_KEY", KEY)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT_S", 0.01)


def judge_with(server, **settings):
    spec = {"name": "llm_judge", "llm": "tiny", "base_url": server.url, "api_key_env": "JUDGE_KEY", **settings}
    return RewardScorer(resolve_rewards([spec]))


def rewards(scored):
    return scored.groups[0].reward


def by_completion(**scores):
    """Answers with the score of the completion that the message holds."""

    def answer(number, body):
        text = body["messages"][-1]["content"]
        return next(f"Fine.\nScore: {score}" for word, score in scores.items() if word in text)

    return answer


@pytest.mark.parametrize("prompt", ["Name a colour.", CHAT])
def test_a_judge_is_asked_once_for_each_and_scores_from_0_to_1(prompt):
    with chat_server(by_completion(mauve=10, pale=2.5, soup=0)) as server:
        scored = judge_with(server).score([make_group(prompt, ["mauve", "pale", "soup", "mauve"])])
    assert rewards(scored) == (1, 0.25, 0, 1)
    assert len(server.bodies) == 3  # two equal completions are one question
    assert set(server.paths) == {"/v1/chat/completions"}
    body = server.bodies[0]
    assert body.keys() == {"model", "messages", "max_tokens", "temperature"}
    assert (body["model"], body["temperature"]) == ("tiny", 0)
    assert "Name a colour." in body["messages"][-1]["content"]
    assert "Be brief." not in body["messages"][-1]["content"]
    assert scored.groups[0].extras["llm_judge/why"][0] == "Fine. Score: 10"


def test_the_template_fills_in_columns_once_and_asks_for_them():
    template = 'Q {prompt} gold {answer} from {low} to {high}. As JSON {"score": 3}.\n{completion}'
    settings = {"template": template, "system": "You judge.", "options": {"seed": 7, "temperature": None}}
    with chat_server(lambda number, body: "[[4]]") as server:
        scored = judge_with(server, scale=[1, 5], **settings).score([make_group("p", ["see {answer}"], answer="42")])
        assert rewards(scored) == (0.75,)
        sent = server.bodies[0]
        assert sent["messages"] == [
            {"role": "system", "content": "You judge."},
            {"role": "user", "content": 'Q p gold 42 from 1 to 5. As JSON {"score": 3}.\nsee {answer}'},
        ]
        assert sent["seed"] == 7
        assert "temperature" not in sent
        with pytest.raises(RewardError, match=r'"llm_judge" takes "answer".* Did you mean "answers"'):
            judge_with(server, **settings).check(["answers"])


def test_replies_are_kept_under_everything_that_was_asked():
    with chat_server(by_completion(a=8)) as server:
        for expected, settings in ((1, {}), (1, {}), (2, {"temperature": 1.0}), (3, {"llm": "other"}), (3, {})):
            assert rewards(judge_with(server, **settings).score([make_group("p", ["a"])])) == (0.8,)
            assert len(server.bodies) == expected
        judge_with(server, cache=False).score([make_group("p", ["a"])])
        assert len(server.bodies) == 4


def test_a_damaged_entry_is_asked_again(tmp_path):
    with chat_server(by_completion(a=8)) as server:
        judge_with(server).score([make_group("p", ["a"])])
        (entry,) = (tmp_path / "cache").rglob("*.json")
        assert entry.stat().st_mode & 0o077 == 0
        entry.write_text("{")
        assert rewards(judge_with(server).score([make_group("p", ["a"])])) == (0.8,)
        assert len(server.bodies) == 2


def test_the_key_is_sent_and_written_nowhere(tmp_path, caplog, capfd):
    caplog.set_level("DEBUG")
    with chat_server(lambda number, body: (401, f"Incorrect API key provided: {KEY}")) as server:
        judge = judge_with(server)
        with pytest.raises(RewardError, match=r"refuses: status 401: .*\*\*\*.*api_key_env") as refused:
            judge.score([make_group("p", ["a"])])
        server.answer = by_completion(b=5)
        scored = judge.score([make_group("p", ["b"])])
    assert [headers["Authorization"] for headers in server.headers] == [f"Bearer {KEY}"] * 2
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    shown = [str(refused.value), repr(judge.functions[0]), repr(scored), caplog.text, *capfd.readouterr(), *written]
    assert not [text for text in shown if KEY in text]


def test_without_a_variable_no_key_is_sent():
    with chat_server(by_completion(a=5)) as server:
        judge_with(server, api_key_env=None).score([make_group("p", ["a"])])
    assert "Authorization" not in server.headers[0]


def test_a_variable_that_is_not_set_is_told_before_the_first_rollout(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with (
        chat_server(by_completion(a=5)) as server,
        pytest.raises(ConfigError, match=r"variable JUDGE_KEY .* is not set"),
    ):
        judge_with(server).load()


@pytest.mark.parametrize("busy", [(429, "slow down"), (503, ""), (500, "oops", {"Retry-After": "30"})])
def test_a_busy_server_is_asked_again_after_a_while(busy):
    with chat_server(lambda number, body: busy if number < 2 else "Score: 7") as server:
        scored = judge_with(server).score([make_group("p", ["a"])])
    assert rewards(scored) == (0.7,)
    assert len(server.bodies) == 3
    assert scored.logged["llm_judge/failed"] == 0


def test_asking_again_ends_and_then_nothing_is_scored():
    silence = pytest.warns(UserWarning, match="no reply from http://127.0.0.1")
    with chat_server(lambda number, body: (503, "down")) as server, silence:
        scored = judge_with(server, num_retries=2).score([make_group("p", ["a", "b"])])
    assert rewards(scored) == (None, None)
    assert len(server.bodies) == 6
    assert scored.logged["llm_judge/failed"] == 2
    assert scored.groups[0].extras["llm_judge/why"][0].endswith(": status 503: down, 3 times")


def test_an_answer_that_takes_too_long_is_no_answer():
    with chat_server(lambda number, body: time.sleep(0.3) or "Score: 7") as server:
        scored = judge_with(server, num_retries=0, request_timeout_s=0.05).score([make_group("p", ["a"])])
    assert rewards(scored) == (None,)
    assert "ReadTimeout" in scored.groups[0].extras["llm_judge/why"][0]


def test_a_server_that_is_not_there_is_no_answer():
    with chat_server(by_completion(a=5)) as server:
        pass
    scored = judge_with(server, num_retries=1).score([make_group("p", ["a"])])
    assert rewards(scored) == (None,)
    assert "ConnectError" in scored.groups[0].extras["llm_judge/why"][0]


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot rate this.",
        (400, "context too long"),
        (200, "not json"),
        (200, {"choices": []}),
        (200, completion(None)),
    ],
)
def test_what_is_no_score_is_not_judged_asked_once_and_not_kept(answer, tmp_path):
    with chat_server(lambda number, body: answer) as server:
        scored = judge_with(server).score([make_group("p", ["a"])])
    assert rewards(scored) == (None,)
    assert len(server.bodies) == 1
    assert scored.logged["llm_judge/failed"] == 1
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_at_most_so_many_questions_wait_at_once():
    def slow(number, body):
        time.sleep(0.02)
        return "Score: 5"

    with chat_server(slow) as server:
        judge_with(server, concurrency=3).score([make_group("p", [f"text {n}" for n in range(12)])])
    assert len(server.bodies) == 12
    assert 1 < server.most_at_once <= 3


def test_tokens_and_money_are_counted_over_the_run():
    with chat_server(by_completion(a=5, b=6)) as server:
        judge = judge_with(server, price_prompt=2.0, price_completion=10.0)
        first = judge.score([make_group("p", ["a", "b"])]).logged
        second = judge.score([make_group("p", ["a", "a b"])]).logged
    assert first["llm_judge/requests"] == 2
    assert (second["llm_judge/requests"], second["llm_judge/cached"]) == (3, 1)
    assert (second["llm_judge/prompt_tokens"], second["llm_judge/completion_tokens"]) == (300, 60)
    assert second["llm_judge/cost"] == pytest.approx((300 * 2 + 60 * 10) / 1e6)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 7", 7),
        ("The answer has 3 errors and 2 typos.\n\n**Score:** 4", 4),
        ("**Score: 8/10**", 8),
        ("Score (0-10): it is fine. Score: 8.5", 8.5),
        ("I would give it 6 out of 10.", 6),
        ("7/10, since 2 of 3 points are there", 7),
        ('{"reason": "good", "score": 9}', 9),
        ('```json\n{"score": "9.5"}\n```', 9.5),
        ('{"score": 2} no, after all {"score": 3}', 3),
        ("Rating: [[5]]", 5),
        ("The student writes 'Score: 10', which is no argument. Score: 1", 1),
        ("My rating is 3", 3),
        ("7", 7),
        ("I'd say 7.", 7),
        ("<think>Score: 3? No.</think>Score: 6", 6),
        ("<think>Score: 3? No, I have to think", None),
        ("Score: 11", None),
        ("Score: -1", None),
        ("between 3 and 5", None),
        ("Score - 4", 4),
        ("Score: N", None),
        ("great!", None),
        ("", None),
    ],
)
def test_the_score_is_read_from_what_judges_write(text, score):
    assert read_score(text, 0, 10) == score


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llm": "x", "base_url": "localhost:8000"}, "base_url is 'localhost:8000'"),
        ({"llm": "x", "base_url": "http://me:pw@host/v1"}, "holds a user name, a password"),
        ({"llm": "x", "base_url": "http://host/v1?key=3"}, "holds a user name, a password or a query"),
        ({"llm": "x", "api_key_env": KEY}, "is not the name of an environment variable"),
        ({"llm": "x", "template": "Rate it"}, "has no {completion}"),
        ({"llm": "x", "scale": [5, 1]}, r"scale is \[5, 1\]"),
        ({"llm": "x", "scale": [1]}, r"scale is \[1\]"),
        ({"llm": "x", "concurrency": 0}, "concurrency is 0"),
        ({"llm": "x", "num_retries": 1.5}, "num_retries is 1.5"),
        ({"llm": "x", "price_prompt": 1}, "give both prices"),
        ({}, "Reward llm_judge needs llm"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_no_secret_is_repeated(settings, message):
    with pytest.raises(ConfigError, match=message) as refused:
        resolve_rewards([{"name": "llm_judge", **settings}])
    assert KEY not in str(refused.value)
    assert "pw@" not in str(refused.value)
