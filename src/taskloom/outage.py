"""An outage: wait longer each time, and say it once."""

from __future__ import annotations

import logging
import random

from taskloom.clock import Clock

__all__ = ["Outage", "reason"]

_log = logging.getLogger(__name__)

SHORTEST, LONGEST = 0.1, 5.0


def reason(error: BaseException) -> str:
    """What an outage's error says; a call that was given up says nothing of its own."""
    return str(error) or "no answer in time"


class Outage:
    """Back-off of one loop against one engine: 0.1 s doubling to 5 s, with jitter."""

    longest = LONGEST

    def __init__(self, doing: str, clock: Clock) -> None:
        self._doing = doing
        self._clock = clock
        self._delay = 0.0
        self._since = 0.0

    @property
    def away(self) -> bool:
        """Whether the last call failed."""
        return self._delay > 0

    async def wait(self, error: BaseException, *, until: float = float("inf")) -> bool:
        """Wait before the next try; False when that would be after `until` (monotonic)."""
        if not self.away:
            self._since = self._clock.monotonic()
            _log.warning("%s: %s; trying again until it works", self._doing, reason(error))
        self._delay = min(LONGEST, self._delay * 2 or SHORTEST)
        if self._clock.monotonic() + self._delay > until:
            return False
        # Jitter: many workers must not come back in step (not a secret, so `random` will do).
        await self._clock.sleep(self._delay * random.uniform(0.5, 1.0))
        return True

    def over(self) -> None:
        """A call worked."""
        if self.away:
            lasted = self._clock.monotonic() - self._since
            _log.warning("%s: works again after %.1f s", self._doing, lasted)
        self._delay = 0.0
