"""Functions called in worker processes: their values, their errors, their limits."""

from __future__ import annotations

import pytest

from groupwise.errors import ConfigError
from groupwise.rewards.sandbox import Sandboxed

SCORERS = "tests.rewards.scorers"


def test_rows_come_back_in_order_as_the_function_returns_them():
    scorer = Sandboxed(f"{SCORERS}:double", num_workers=2)
    outcomes = scorer([{"x": number} for number in range(20)])
    assert [o.value for o in outcomes] == [2 * number for number in range(20)]
    assert all(o.error is None and o.seconds > 0 for o in outcomes)
    scorer.close()


def test_a_hung_row_costs_its_time_and_no_other_row():
    scorer = Sandboxed(f"{SCORERS}:hang_on_3", timeout_s=0.3, num_workers=1)
    outcomes = scorer([{"x": number} for number in range(5)])
    assert [o.value for o in outcomes] == [0, 1, 2, None, 4]
    assert outcomes[3].error == "timed out after 0.3 s"
    scorer.close()


def test_what_a_row_does_wrong_stands_in_its_outcome():
    scorer = Sandboxed(f"{SCORERS}:misbehave", num_workers=1)
    said = scorer([{"how": how} for how in ("raise", "exit", "die", "object", "nothing")])
    assert [o.error for o in said[:2]] == ["raised ValueError: no good", "called exit"]
    assert said[2].error == "ended with status 3"
    assert "returned what is not JSON" in str(said[3].error)
    assert (said[4].value, said[4].error) == (None, None)
    scorer.close()


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no_such_function"):
        Sandboxed(f"{SCORERS}:no_such_function")([{"x": 1}])
    with pytest.raises(ConfigError, match="no module no_such_package"):
        Sandboxed("no_such_package:function")([{"x": 1}])
