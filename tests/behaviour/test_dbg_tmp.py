import sys

sys.path.insert(0, "/work/main/tests/behaviour")
import contextlib
from harness import *
from taskloom import *


async def test_x(memory):
    async def parents(tasks, actions):
        print("CALL", [(t.payload, t.id[-4:], t.status) for t in tasks])
        for task in tasks:
            with contextlib.suppress(TooManyChildrenError):
                ch = [make_task(n) for n in range(task.payload)]
                actions.add_tasks(ch, parent=task)
            actions.success(task)

    runs = Runs()
    m = memory.meddled()
    h = memory.handler({"parent": multi(parents), TYPE: single(runs)}, max_children=3, parts=m)
    await h.add_tasks([make_task(2, type="parent", force_store=True), make_task(4, type="parent")])
    await h.drain(10)
    print([(c[0], len(c[1][-1]) if c[0] == "queue.put" else "") for c in m.calls])
    print([(t.id, t.payload) for t in runs])
