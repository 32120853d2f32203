"""`secantusd-py` of the wheel, made to behave as mongod where clients die within transactions.

Seen with 0.7.0b3:

- A transaction of a client that is gone ends only when another one comes along, and then everybody
  waits for the longest statement of all. mongod ends it by itself, a minute after it began
  (`transactionLifetimeLimitSeconds`); here it is once it had no statement for two seconds, sooner
  than the leases of tests that kill their clients.
- A write of many documents that meets a transaction's keeps the lock on the collection while it
  waits. If that transaction has another statement for the collection, both wait for ever, and soon
  the whole server does (`_update_chunk retrying on write conflicts for 250 s` in its log). Here it
  gives up the lock while it waits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from secantus import cli
from secantus.storage import Storage, WriteConflictError, _is_wt_rollback
from secantus.transactions import Transaction, TransactionRegistry, TxnState

LIFETIME = 2.0
"""Seconds since the end of the last statement."""
LOOK_EVERY = 0.1
AGAIN_AFTER = 0.005


def _end_those_left(registry: TransactionRegistry) -> None:
    while True:
        time.sleep(LOOK_EVERY)
        with registry._lock:
            known = list(registry._txns.values())
        for transaction in known:
            if transaction.state is TxnState.IN_PROGRESS:
                _end_if_left(registry, transaction)


def _end_if_left(registry: TransactionRegistry, transaction: Transaction) -> None:
    if not transaction.mutex.acquire(blocking=False):
        transaction.last_use = time.time()  # a statement of it is under way
        return
    try:
        if transaction.last_use < time.time() - LIFETIME:
            registry.abort_in_progress(transaction)
    finally:
        transaction.mutex.release()


class Server(cli.SecantusDBServer):
    """Ends transactions that nobody goes on with."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        # Nobody but the thread: not those who come along.
        settings["transaction_lifetime_seconds"] = float("inf")
        super().__init__(*arguments, **settings)
        looking = (self.transactions,)
        threading.Thread(target=_end_those_left, args=looking, daemon=True).start()


def _giving_way(chunk: Callable[..., Any]) -> Callable[..., Any]:
    """A write of many documents; it is called under the collection's lock."""
    tried = chunk.__wrapped__  # type: ignore[attr-defined]

    @wraps(tried)
    def giving_way(self: Storage, db: str, coll: str, *arguments: Any, **options: Any) -> Any:
        lock = self._coll_lock(db, coll)
        while True:
            try:
                return tried(self, db, coll, *arguments, **options)
            except Exception as error:
                if not isinstance(error, WriteConflictError) and not _is_wt_rollback(error):
                    raise
            lock.release()
            time.sleep(AGAIN_AFTER)
            lock.acquire()

    return giving_way


def main() -> int | None:
    """Serve, as `secantusd-py` does."""
    cli.SecantusDBServer = Server
    Storage._update_chunk = _giving_way(Storage._update_chunk)
    Storage._delete_chunk = _giving_way(Storage._delete_chunk)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
