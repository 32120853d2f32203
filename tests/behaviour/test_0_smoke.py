from harness import *


async def test_smoke(engines):
    runs, diary = Runs(), Diary()
    h = engines.handler({TYPE: single(runs)}, diary=diary)
    (t,) = await h.add_tasks([make_task(1, force_store=True)])
    async with serving(h):
        await diary.told("on_task_completed")
    assert (await engines.status(t)) == "executed"


async def test_smoke2(still):
    runs, diary = Runs(), Diary()
    m = still.meddled()
    h = still.handler({TYPE: single(runs)}, diary=diary, parts=m)
    (t,) = await h.add_tasks([make_task(1, force_store=True)])
    await h.drain(3)
    print(m.names())
    assert (await still.status(t)) == "executed"
