"""N2 and N5: connections are reset at random bytes, and between a write and its answer.

`TASKLOOM_TEST_LONG=1` makes it 1,000 cuts, 100 of them between; `TASKLOOM_TEST_SEED` others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from places import PLACES
from proxy import Proxy, RandomCuts, proxy_to
from rig import OpenRig, Rig, seed_of
from server_control import ENGINES
from under_load import MAKES_AGAIN, adding, note_away, rules_on, settled, size

from taskloom import Loom

pytestmark = pytest.mark.usefixtures("forgotten_sockets")

WORKERS = 3
CUTS = size(200, 1_000)
BETWEEN = size(40, 100)
SHARE = {"mongodb": 3}
"""One in so many of these: its server does some hundred operations a second."""


@asynccontextmanager
async def cut_off(rig: Rig) -> AsyncIterator[tuple[list[Proxy], Loom]]:
    """Workers and a client, each behind a proxy of its own."""
    port = urlsplit(rig.place.url).port
    assert port is not None, "its server is on a port"
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(proxy_to(port, rig.engine)) for _ in range(WORKERS + 1)
        ]
        urls = [rig.place.url.replace(f":{port}/", f":{proxy.port}/") for proxy in proxies]
        for proxy, url in zip(proxies[1:], urls[1:], strict=True):
            pid = await rig.start(url=url)
            proxy.on_cut = partial(_note, rig, pid)
        await rig.until("worker.ready", count=WORKERS)
        place = PLACES[rig.engine](urls[0], rig.directory, beside=rig.rules.beside)
        async with Loom(None, **place.parts()._asdict()) as loom:
            yield proxies, loom


def _note(rig: Rig, pid: int, cut: object) -> None:
    note_away(rig, pid)


@pytest.mark.timeout(120 + CUTS)
@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, open_rig: OpenRig, engine: str
) -> None:
    seed = seed_of(20261124)
    share = SHARE.get(engine, 1)
    count, hidden = CUTS // share, BETWEEN // share
    async with open_rig(tmp_path / "rig", rules_on(engine), engine=engine) as rig:
        async with cut_off(rig) as (proxies, loom):
            async with adding(rig, loom, seed, pause=0.02) as client:
                plans = RandomCuts(seed, count - hidden, hidden)
                for proxy in proxies:
                    proxy.cut(plans)
                await plans.done.wait()
                for proxy in proxies:
                    proxy.cut(None)
            await settled(rig)
            violations = await rig.verdict()
        cuts = [cut for proxy in proxies for cut in proxy.cuts]
        between = sum(cut.plan.write > 0 for cut in cuts)
        print(
            f"{engine}, seed {seed}: {len(cuts)} cuts, {between} of them between a write and its "
            f"answer; {client.accepted} tasks, {client.refused} calls made again, "
            f"{len(rig.of('run.start'))} runs"
        )
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
        hit = between if engine in MAKES_AGAIN else client.refused
        assert hit, "no call was hit: the test shows nothing"
