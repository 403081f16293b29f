"""Plays an environment of gymnasium's kind, TextArena's games among them: `reset(seed=...)`, `step(action)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupwise.environments.environment import Observation, Reply
from groupwise.errors import EnvironmentFailedError
from groupwise.types import Message, Problem


class GymEnvironment:
    """One game a completion: each turn is an action, and what is observed comes back as a message of the user.

    `made` is the environment. `action` makes an action of a turn's text; where it raises `ValueError` or `LookupError`,
    the policy reads so, and the turn is lost. `say` makes text of an observation. A `step` returns `(observation,
    reward, terminated, truncated, info)`, or `(done, info)` where `get_observation()` has the rest (TextArena, one
    player).
    """

    def __init__(
        self, made: Any, action: Callable[[str], Any] = str.strip, say: Callable[[Any], str] = str, **reset: Any
    ) -> None:
        """`reset` are more arguments of its `reset`, such as `num_players=1`."""
        self.played, self._action, self._say, self._options = made, action, say, reset

    def reset(self, problem: Problem, seed: int) -> Sequence[Message]:
        begun = self.played.reset(**{"seed": seed, **self._options})
        return self._message(begun[0] if isinstance(begun, tuple) else begun)

    def step(self, reply: Reply) -> Observation:
        try:
            action = self._action(reply.text)
        except (ValueError, LookupError) as error:
            return Observation([{"role": "user", "content": f"No action: {error}"}])
        ended = self.played.step(action)
        if not isinstance(ended, tuple) or len(ended) not in (2, 5):
            raise EnvironmentFailedError(f"step returned {ended!r:.80}; expected five values, or (done, info).")
        if len(ended) == 2:
            return self._of_game(bool(ended[0]))
        observed, reward, terminated, truncated, _ = ended
        return Observation(self._message(observed), float(reward), bool(terminated or truncated))

    def _of_game(self, is_done: bool) -> Observation:
        """TextArena gives the reward of a whole game when it is closed."""
        if not is_done:
            return Observation(self._message(None))
        ended = self.played.close()
        rewards = ended[0] if isinstance(ended, tuple) else ended
        if not isinstance(rewards, Mapping) or len(rewards) != 1:
            raise EnvironmentFailedError(f"close returned {ended!r:.80}; expected the rewards of one player.")
        (reward,) = rewards.values()
        return Observation((), float(reward), True)

    def _message(self, observed: Any) -> Sequence[Message]:
        if observed is None and hasattr(self.played, "get_observation"):
            _, observed = self.played.get_observation()
        return [{"role": "user", "content": self._say(observed)}]

    def close(self) -> None:
        self.played.close()
