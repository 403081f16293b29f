"""The shortest proof of several ranks: two make the run of one, replicated or in shards, and a killed one is named.

`make ranks` has the others: tests/ranks/test_ranks.py and test_sharding.py.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from groupwise.runs.folder import RunFolder
from groupwise.runs.token_record import read_token_record
from tests.ranks.launching import Launch, Launched, launch_all
from tests.ranks.test_ranks import SAVED, all_well, ids, largest_difference

pytestmark = pytest.mark.slow

SHORT = {"max_steps": 2}
ONE_UPDATE = {**SHORT, "num_iterations": 1, "num_minibatches": 1, "micro_batch_tokens": 40}
"""The learner's passes are all that has log-probs to compare with the reference, and each rank makes some of them."""
LAUNCHES = [
    Launch("1", 1, "trains", SHORT),
    Launch("2", 2, "trains", SHORT),
    Launch("2 in shards", 2, "trains", {**SHORT, "shard": "full"}),
    Launch("1, one update", 1, "trains", ONE_UPDATE),
    Launch("2, one update", 2, "trains", ONE_UPDATE),
    Launch("2 in shards, one update", 2, "trains", {**ONE_UPDATE, "shard": "full"}),
    Launch("is killed", 2, "fails", {"kind": "is killed", "rank": 1, "step": 2, "with": {**SAVED, **SHORT}}),
]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launched]:
    return launch_all(tmp_path_factory.mktemp("few"), LAUNCHES, timeout=300)


@pytest.mark.parametrize("name", ["2", "2 in shards"])
def test_two_ranks_make_the_run_of_one(launched: dict[str, Launched], name: str) -> None:
    found, one = launched[name], launched["1"]
    assert all_well(found), found.output
    assert ids(found) == ids(one)
    assert largest_difference(found, one) < 1e-5


@pytest.mark.parametrize("name", ["2, one update", "2 in shards, one update"])
def test_rank_0_records_the_tokens_of_all(launched: dict[str, Launched], name: str) -> None:
    assert all_well(launched[name]), launched[name].output
    for step in (1, 2):
        found, one = (
            read_token_record(RunFolder(launched[which].folder / "run"), step) for which in (name, "1, one update")
        )
        assert found is not None
        assert one is not None
        assert found.lengths.tolist() == one.lengths.tolist()
        for mine, theirs in ((found.logprob, one.logprob), (found.ref_log_ratio, one.ref_log_ratio)):
            np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=1e-3)
            assert not np.isnan(mine).any()


def test_a_killed_rank_ends_all_and_is_named(launched: dict[str, Launched]) -> None:
    found = launched["is killed"]
    assert all(code != 0 for code in found.codes[0]), found.output
    assert re.search("Rank 1 .* is gone", found.output), found.output
    assert list((found.folder / "run").glob("checkpoint-1"))
