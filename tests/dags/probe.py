"""Run in a process of its own with the supervisor's environment: says as JSON what Airflow makes of our DAGs and triggers."""

import asyncio
import json
import os
import re
import sys
import time


def dags() -> object:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(os.path.join(os.environ["DUKOU_ROOT"], "dags"))  # noqa: PTH118
    return {
        "errors": bag.import_errors,
        "dags": {
            dag_id: {
                "name": dag.dag_display_name,
                "doc": dag.doc_md,
                "exchanges": re.findall(rf"`{dag_id}/([a-z_]+)`", dag.doc_md or ""),
                "max_active_runs": dag.max_active_runs,
                "catchup": dag.catchup,
                "tags": sorted(dag.tags),
                "timetable": type(dag.timetable).__name__,
                "tasks": [
                    {"id": t.task_id, "name": t.task_display_name, "doc": t.doc_md, "retries": t.retries}
                    for t in dag.topological_sort()
                ],
                "order": {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks},
            }
            for dag_id, dag in bag.dags.items()
        },
    }


def hints() -> object:
    from connectors.hints import KombuHints
    from dukou.airflow.triggers import HintStream, HintTrigger
    from dukou.hinting import transport_options
    from dukou.settings import Settings

    settings = Settings.from_env(os.environ)
    send = KombuHints(settings.broker_url, transport_options(settings), lambda: int(time.time() * 1000))

    async def listen() -> object:
        stream = HintStream()
        seen: set[str] = set()

        async def events():
            async for partners, ack in stream.open_stream():
                seen.update(partners)
                await stream.ack(ack)
                yield partners

        shared = events()
        fired = []
        send("airflow", "tax")
        send("airflow", "hall")
        send("courier", "registry")
        async for event in HintTrigger("tax").filter_shared_stream(shared):
            fired.append(event.payload)
            break
        while not {"tax", "hall"} <= seen:
            await anext(shared)
        await stream.aclose()
        return {"fired": fired, "seen": sorted(seen)}

    result = asyncio.run(asyncio.wait_for(listen(), 20))
    send.close()
    one, two = HintTrigger("tax"), HintTrigger("hall")
    return {
        "heard": result,
        "serialized": one.serialize(),
        "shared": one.shared_stream_key() == two.shared_stream_key(),
        "ack_mode": isinstance(HintTrigger.create_shared_stream_producer({}), HintStream),
    }


if __name__ == "__main__":
    json.dump({"dags": dags, "hints": hints}[sys.argv[1]](), sys.stdout, default=str)
