"""The order in which problems are drawn: an endless chain of epoch permutations, resumable exactly."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from groupwise.data.curriculum import Curriculum, Seen
from groupwise.errors import DataError


class Draw(NamedTuple):
    """One drawn problem."""

    number: int
    """Running number of the draw over the whole run: the identity of a group."""
    row: int


class Order:
    """Draws rows epoch after epoch. Steps may cross epochs, but no row comes twice within a step.

    The permutation of an epoch follows from (seed, epoch) alone. A row that the running step has already had is put
    aside and comes first in the next step, so every epoch still holds every row once.

    With a curriculum a row that comes up is drawn with its weight as probability, by a random number that follows from
    (seed, position) alone, and otherwise passed over.

    `drop_incomplete_step` ends each permutation after its last whole step: an epoch is then a whole number of steps,
    and leaves out rows that another epoch's order may hold.
    """

    def __init__(
        self,
        num_rows: int,
        prompts_per_step: int,
        seed: int = 0,
        shuffle: bool = True,
        curriculum: Curriculum | None = None,
        drop_incomplete_step: bool = False,
    ) -> None:
        if num_rows < prompts_per_step:
            raise DataError(
                f"The data set has {num_rows} problems, but a step draws {prompts_per_step} different ones. "
                f"Use more data, or set prompts_per_step to {num_rows} or less."
            )
        assert prompts_per_step > 0
        self.num_rows = num_rows
        self.rows_per_epoch = num_rows - num_rows % prompts_per_step if drop_incomplete_step else num_rows
        self.prompts_per_step = prompts_per_step
        self.seed = seed
        self.shuffle = shuffle
        self.curriculum = curriculum
        self.num_drawn = 0
        self._position = 0  # in the chain; ahead of num_drawn by the rows put aside
        self._put_aside: list[int] = []
        self._drawn_in_step: set[int] = set()
        self._permutation: tuple[int, list[int]] = (-1, [])

    @property
    def epoch(self) -> float:
        """Epochs drawn so far, as a fraction."""
        return self.num_drawn / self.rows_per_epoch

    @property
    def num_left_in_step(self) -> int:
        """How many more rows the running step can draw."""
        return self.rows_per_epoch - len(self._drawn_in_step)

    def draw(self, num: int | None = None, *, same_step: bool = False) -> list[Draw]:
        """The next `num` problems (default: one step's). `same_step` draws further ones for the step under way."""
        num = self.prompts_per_step if num is None else num
        if not same_step:
            self._drawn_in_step = set()
        if num > self.num_left_in_step:
            raise DataError(
                f"A step asked for {num} more problems, but only {self.num_left_in_step} of {self.rows_per_epoch} rows "
                "have not been drawn in it yet. Use more data, or draw fewer problems a step."
            )
        return [self._draw_one() for _ in range(num)]

    def observe(self, seen: Sequence[Seen]) -> list[str]:
        """Let the curriculum learn from a finished step; returns what changed, in words."""
        return [] if self.curriculum is None else self.curriculum.observe(seen)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next draws; plain JSON values."""
        return {
            "curriculum": None if self.curriculum is None else self.curriculum.state_dict(),
            "num_rows": self.num_rows,
            "rows_per_epoch": self.rows_per_epoch,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "num_drawn": self.num_drawn,
            "position": self._position,
            "put_aside": list(self._put_aside),
            "drawn_in_step": sorted(self._drawn_in_step),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; the data and the seed must be the same."""
        state = {"rows_per_epoch": state["num_rows"], **state}  # older checkpoints have no other epochs
        for key in ("num_rows", "rows_per_epoch", "seed", "shuffle"):
            if state[key] != getattr(self, key):
                raise DataError(
                    f"The order of problems cannot be resumed: {key} was {state[key]} and is now {getattr(self, key)}. "
                    "Resume with the data set and settings of the interrupted run, or start a new one."
                )
        self.num_drawn = state["num_drawn"]
        self._position = state["position"]
        self._put_aside = list(state["put_aside"])
        self._drawn_in_step = set(state["drawn_in_step"])
        self._resume_curriculum(state.get("curriculum"))

    def _resume_curriculum(self, saved: dict[str, Any] | None) -> None:
        if (saved is None) != (self.curriculum is None):
            has, had = ("no", "one") if self.curriculum is None else ("a", "none")
            raise DataError(
                f"The order of problems cannot be resumed: this run has {has} curriculum and the checkpoint has {had}. "
                "Resume with the settings of the interrupted run, or start a new one."
            )
        if self.curriculum is not None and saved is not None:
            self.curriculum.load_state_dict(saved)

    def _draw_one(self) -> Draw:
        draw = Draw(self.num_drawn, self._next_row())
        self._drawn_in_step.add(draw.row)
        self.num_drawn += 1
        return draw

    def _next_row(self) -> int:
        if self.curriculum is not None:
            return self._next_weighted(self.curriculum)
        for i, row in enumerate(self._put_aside):
            if row not in self._drawn_in_step:
                return self._put_aside.pop(i)
        while (row := self._row_at(self._position)) in self._drawn_in_step:
            self._put_aside.append(row)
            self._position += 1
        self._position += 1
        return row

    def _next_weighted(self, curriculum: Curriculum) -> int:
        """The next row that its weight lets pass; after two epochs without one, any row the step has not had."""
        start = self._position
        while True:
            position, row = self._position, self._row_at(self._position)
            self._position += 1
            if row in self._drawn_in_step:
                continue
            has_given_up = position - start >= 2 * self.num_rows
            if has_given_up or _is_taken(curriculum.weight(row), self.seed, position):
                return row

    def _row_at(self, position: int) -> int:
        epoch, index = divmod(position, self.rows_per_epoch)
        if not self.shuffle:
            return index
        if self._permutation[0] != epoch:
            self._permutation = (epoch, permutation(self.num_rows, self.seed, epoch))
        return self._permutation[1][index]


def _is_taken(weight: float, seed: int, position: int) -> bool:
    return weight >= 1 or (weight > 0 and Random(f"{seed}/taken/{position}").random() < weight)


def permutation(num_rows: int, seed: int, epoch: int) -> list[int]:
    """Rows in the order of seeded random keys (`Random.random` is the one stream Python promises never to change)."""
    random = Random(f"{seed}/{epoch}").random
    keys = [random() for _ in range(num_rows)]
    return sorted(range(num_rows), key=keys.__getitem__)
