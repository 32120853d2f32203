"""`secantusd-py` of the wheel, which gives up the transactions of clients that are gone, as mongod.

mongod does so after `transactionLifetimeLimitSeconds`, a minute unless it is told otherwise: here
sooner, though later than the longest statement of a test. The wheel's server (0.7.0b3) does so only
when another transaction comes along; who waits for such a record without one would wait forever.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from secantus import cli

LIFETIME = 10.0
LOOK_EVERY = 0.2


class Server(cli.SecantusDBServer):
    """Looks for transactions that are too old."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, transaction_lifetime_seconds=LIFETIME, **settings)
        threading.Thread(target=self._reap, daemon=True).start()

    def _reap(self) -> None:
        while True:
            time.sleep(LOOK_EVERY)
            self.transactions.prune_expired()


if __name__ == "__main__":
    cli.SecantusDBServer = Server
    sys.exit(cli.main())
