"""Each guard is called by a run that goes wrong in its way, and none by one that does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scored import scored_group

from groupwise import GRPOConfig
from groupwise.config.guards import BY_NAME, GUARDS, WARN_EVERY
from groupwise.errors import ConfigError
from groupwise.guards import measures as guards
from groupwise.guards.distinct_answers import distinct_answers
from groupwise.guards.measures import MEASURES, StepView
from groupwise.guards.monitor import GuardMonitor
from groupwise.train.learner import Update
from groupwise.types import Completion, Problem, Turn

ROOT = Path(__file__).parents[2]
IN_TRAINING = [guard.name for guard in GUARDS if not guard.is_before_training]


# --- the table


def test_every_guard_is_measured_and_every_measure_is_in_the_table() -> None:
    assert list(MEASURES) == IN_TRAINING
    assert len(BY_NAME) == len(GUARDS)
    for guard in GUARDS:
        assert guard.default.action in guard.actions
        assert guard.smallest <= guard.default.threshold <= guard.largest
        assert guard.source
        assert guard.remedy.endswith(".")
        assert "{value" in guard.message


# --- the configuration


def test_a_recipe_changes_what_it_names_and_nothing_else() -> None:
    config = GRPOConfig(guards={"kl": {"action": "stop", "threshold": 10}, "entropy": "off", "empty": False})
    assert config.guards["kl"] == replace(BY_NAME["kl"].default, action="stop", threshold=10.0)
    assert config.guards["entropy"].action == config.guards["empty"].action == "off"
    assert config.guards["mismatch"] == BY_NAME["mismatch"].default
    assert GRPOConfig(**json.loads(json.dumps(config.resolved()))) == config
    assert {setting.action for setting in GRPOConfig(guards="off").guards.values()} == {"off"}


def test_guards_that_can_never_act_are_told() -> None:
    notes = GRPOConfig(guards={"kl": "stop", "entropy": "rollback"}, beta=0.0, save_strategy="no").notes
    assert [note.split(":")[0] for note in notes][:2] == [
        "guards.kl without effect",
        "a guard that rolls back finds no checkpoint",
    ]
    assert not GRPOConfig(guards={"kl": "off"}, beta=0.0).notes
    assert not any("guards" in note for note in GRPOConfig(guards={"kl": "stop"}, beta=0.0, kl_metric_steps=5).notes)
    unchanged = GRPOConfig(beta=0.0, save_strategy="no")
    assert GRPOConfig(**unchanged.resolved()).notes == unchanged.notes == ()


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ({"kll": "stop"}, 'no guard "kll". Did you mean "kl"?'),
        ({"nothing like it": "stop"}, "There are agreement,"),
        ({"kl": {"treshold": 1}}, 'unknown key "treshold". Did you mean "threshold"?'),
        ({"kl": "stopp"}, "expected one of warn, stop, rollback, off. Did you mean \"stop\"?"),
        ({"agreement": "rollback"}, "agreement.action is 'rollback'; expected one of warn, stop, off"),
        ({"kl": {"threshold": math.inf}}, "kl.threshold is inf; expected a number of at least 0."),
        ({"empty": {"threshold": 1.5}}, "at least 0 and at most 1"),
        ({"kl": {"steps": 0}}, "kl.steps is 0; expected a whole number of at least 1"),
        ({"agreement": {"steps": 2}}, "expected 1, as it is measured once"),
        ({"kl": 3}, "guards.kl is 3; expected an action or a mapping of action, threshold, steps"),
        (["kl"], "expected a mapping such as"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_told_before_anything_loads(written: Any, answer: str) -> None:
    with pytest.raises(ConfigError) as error:
        GRPOConfig(guards=written)
    assert answer in str(error.value)


# --- the measures


def completion(ids: tuple[int, ...], text: str = "x", reason: Any = "stop") -> Completion:
    return Completion(ids, (-1.0,) * len(ids), reason, 0, text)


def seen(
    completions: tuple[Completion, ...] = (completion((4, 5)), completion((6,))),
    reward: tuple[float | None, ...] = (0.0, 1.0),
    why: tuple[str | None, ...] = (None,),
    **metrics: Any,
) -> StepView:
    """A step of one group; the metrics are those of a healthy one but for what is given."""
    usual = {
        "frac_reward_zero_std/drawn": 0.0,
        "grad_norm": 1.0,
        "kl": 0.1,
        "entropy": 2.0,
        "sampling/mismatch": 1.0,
        "completions/distinct_answers": 1.0,
    }
    group = scored_group(0, Problem(0, "p"), (4,), completions, reward=reward)
    return StepView({**usual, **metrics}, [group], Update({}, 1.0, 0.1, len(why), why))


def test_updates_left_out_are_counted_across_steps_and_a_good_one_ends_the_row() -> None:
    memory: list[float] = []
    found = [
        guards.skipped_in_a_row(seen(why=why), memory)
        for why in ((None,), (None, "nan"), ("nan", "nan"), ("nan", None, "nan"), (None, None))
    ]
    assert found == [0, 1, 3, 4, 0]


def test_degenerate_completions_are_told_from_short_and_varied_ones() -> None:
    repeated, short, varied = completion((7,) * 9 + (1,)), completion((7,) * 7), completion((7, 8) * 10)
    assert guards.repeated_token(seen((repeated, short)), []) == 0.5
    assert guards.repeated_token(seen((varied, varied)), []) == 0
    assert guards.empty(seen((completion((1,), text=" \n"), varied)), []) == 0.5
    assert guards.truncated(seen((completion((4,), reason="length"), varied)), []) == 0.5


def test_where_nothing_is_judged_no_signal_is_not_said_too() -> None:
    nothing = seen(reward=(None, None), **{"frac_reward_zero_std/drawn": 1.0})
    assert guards.unscored(nothing, []) == 1
    assert guards.no_signal(nothing, []) is None
    assert guards.no_signal(seen(reward=(1.0, 1.0), **{"frac_reward_zero_std/drawn": 1.0}), []) == 1


def test_a_norm_is_compared_with_the_usual_one_once_there_is_one() -> None:
    memory: list[float] = []
    norms = [0.0, math.nan, *[2.0] * guards.FEWEST_NORMS, 8.0]
    found = [guards.grad_norm(seen(grad_norm=norm), memory) for norm in norms]
    assert found == [None] * (len(norms) - 1) + [4.0]
    for _ in range(2 * guards.WINDOW):
        guards.grad_norm(seen(grad_norm=3.0), memory)
    assert memory == [3.0] * guards.WINDOW


def test_a_gap_grows_from_where_the_run_began() -> None:
    memory: list[float] = []
    first = [guards.mismatch(seen(**{"sampling/mismatch": 1.015}), memory) for _ in range(guards.FIRST_STEPS)]
    assert first == [None] * guards.FIRST_STEPS
    assert guards.mismatch(seen(**{"sampling/mismatch": None}), memory) is None
    assert guards.mismatch(seen(**{"sampling/mismatch": 1.06}), memory) == pytest.approx(4)
    exact = [0.0] * guards.FIRST_STEPS
    assert guards.mismatch(seen(**{"sampling/mismatch": 1.001}), exact) == pytest.approx(4)


# --- one answer for every prompt


def answers(*texts: str, right: str = "", place: int = 0) -> Any:
    given = tuple(completion((4,), text=text) for text in texts)
    return scored_group(place, Problem(place, "p", {"answer": right}), (4,), given, reward=(0.0,) * len(texts))


def right_of(problem: Problem) -> str | None:
    return problem.columns["answer"] or None


def test_answers_to_different_prompts_are_compared_in_pairs() -> None:
    same, other = answers("a", "a"), answers("b", "b")
    assert distinct_answers([same, same, same], None) == 0
    assert distinct_answers([same, other], None) == 1
    assert distinct_answers([same, same, other], None) == pytest.approx(2 / 3)
    assert distinct_answers([answers("a", "b"), answers("a", "b")], None) == 0.5
    assert distinct_answers([answers("a", "a", "a", "b"), same], None) == 0.25
    assert distinct_answers([same], None) is None


def test_what_stands_around_an_answer_is_no_difference() -> None:
    texts = ["<answer> Yes </answer> of course", "so the answer is: yes", "well, \\boxed{YES}", "  yes.\n"]
    assert distinct_answers([answers(text) for text in texts], None) == 0
    assert distinct_answers([answers("yes and no"), answers("yes or no")], None) == 1


def test_the_datas_own_answers_are_the_measure() -> None:
    texts, right = ["spam", "ham", "ham", "ham"], ["spam", "ham", "ham", "ham"]
    groups = [answers(text, text, right=answer) for text, answer in zip(texts, right, strict=True)]
    assert distinct_answers(groups, right_of) == pytest.approx(1)
    collapsed = [answers("ham", "ham", right=answer) for answer in right]
    assert distinct_answers(collapsed, right_of) == 0
    assert distinct_answers(groups[1:], right_of) is None, "one answer is right for all of these"
    assert distinct_answers([*groups, answers("ham")], right_of) == pytest.approx(1), "no answer, no comparison"
    assert distinct_answers([answers("ham"), answers("ham")], right_of) is None


def test_turns_are_not_compared() -> None:
    played = replace(completion((4,), text="yes"), turns=(Turn(0, 1, "stop"),))
    groups = [scored_group(i, Problem(i, "p"), (4,), (played, played), reward=(0.0, 0.0)) for i in range(2)]
    assert distinct_answers(groups, None) is None


# --- the watch


class Tape:
    """A writer that keeps events in memory."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})


def make_watch(**written: Any) -> tuple[GuardMonitor, Tape, list[str]]:
    tape, stops = Tape(), []
    watch = GuardMonitor(GRPOConfig(guards=written).guards, tape, stops.append)
    return watch, tape, stops


def test_a_warning_is_not_repeated_every_step() -> None:
    watch, tape, stops = make_watch(kl={"action": "warn", "threshold": 1, "steps": 3})
    for step in range(1, 2 * WARN_EVERY + 2):
        watch.check_step(step, seen(kl=2.0))
    assert [event["step"] for event in tape.events] == [3, 3 + WARN_EVERY]
    assert tape.events[0] | {"guard": "kl", "action": "warn", "value": 2.0, "threshold": 1.0} == tape.events[0]
    assert BY_NAME["kl"].remedy in tape.events[0]["message"]
    for step in range(200, 300):  # on and off: a new warning needs its time all the same
        watch.check_step(step, seen(kl=2.0 * (step % 4 > 0)))
    assert [event["step"] for event in tape.events][2:] == [203, 203 + WARN_EVERY + 2]
    assert stops == []


def test_steps_count_in_a_row_and_what_is_not_measured_neither_adds_nor_ends() -> None:
    watch, _, stops = make_watch(kl={"action": "stop", "threshold": 1, "steps": 3})
    for step, value in enumerate((2.0, 2.0, 0.5, 2.0, None, 2.0), start=1):
        watch.check_step(step, seen(kl=value))
    assert (stops, watch.stopped) == ([], None)
    watch.check_step(7, seen(kl=2.0))
    assert stops == ["guard kl"]
    assert watch.stopped is not None
    assert (watch.stopped.since, watch.may_save) == (4, True)


def test_checkpoints_are_kept_while_a_guard_may_want_to_go_back() -> None:
    watch, _, _ = make_watch(kl={"action": "rollback", "threshold": 1, "steps": 3})
    watch.check_step(1, seen())
    assert watch.num_kept(1) == 1
    watch.check_step(2, seen(kl=2.0))
    assert watch.num_kept(1) is None
    watch.check_step(3, seen())
    assert watch.num_kept(1) == 1


def test_the_state_is_plain_json_and_goes_on_where_it_was() -> None:
    written = {"kl": {"action": "warn", "threshold": 1, "steps": 2}, "grad_norm": {"threshold": 3, "steps": 2}}
    steps = [seen(kl=0.4 * n, grad_norm=1 + n % 3, why=("nan" if n % 4 == 0 else None,)) for n in range(24)]
    whole, heard, _ = make_watch(**written)
    for step, it in enumerate(steps):
        whole.check_step(step, it)
    first, heard_first, _ = make_watch(**written)
    for step, it in enumerate(steps[:9]):
        first.check_step(step, it)
    second, heard_second, _ = make_watch(**written)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step, it in enumerate(steps[9:], start=9):
        second.check_step(step, it)
    assert heard_first.events + heard_second.events == heard.events
    assert second.state_dict() == whole.state_dict()


def demo() -> list[StepView]:
    """The demo's figures: what its record holds, and wider than its curves where it holds none.

    Rewards, the last KL and the mismatch are in bench/results; its KL peaks at 3.5 (seed 42, 2026-11-26).
    """
    found = []
    for run in json.loads((ROOT / "bench" / "results" / "demo_seeds.json").read_text())["seeds"].values():
        num = run["num_steps"]
        assert run["last_kl"] < 5
        for n in range(num):
            is_long = n < num // 6  # at first nearly all completions are cut off
            metrics = {
                "kl": 5.0 * n / num,
                "entropy": 3.5 - 3.0 * n / num,
                "grad_norm": 0.25 * (1 + 30 * n / num),
                "sampling/mismatch": 1 + (run["sampling_mismatch"] - 1) * (1 + n % 2),
            }
            text = "an answer" if run["rewards"][n] > -310 else ""
            sampled = completion(tuple(range(4, 16)), text, "length" if is_long else "stop")
            found.append(seen((sampled, completion((4, 5, 1))), (run["rewards"][n], run["rewards"][n] + 9), **metrics))
    return found


def test_no_guard_is_called_by_the_demo() -> None:
    steps = demo()
    assert len(steps) >= 150
    for start in range(0, len(steps), 50):
        watch, tape, stops = make_watch()
        for step, it in enumerate(steps[start : start + 50], start=1):
            watch.check_step(step, it)
        assert (tape.events, stops) == ([], [])
