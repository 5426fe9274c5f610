"""Makes the DAGs: one per partner (collect → deliver → reconcile), and one per piece of upkeep."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable, task

from dukou.airflow import work
from dukou.airflow.triggers import HintTrigger

EVERY_MINUTE = "* * * * *"
# Hints bring what cannot wait, and the sweep sends lost ones again each minute: a timetable that fires more often only
# keeps a woken run waiting behind a run that finds nothing.
EVERY_FIVE_MINUTES = "*/5 * * * *"
# Required by Airflow and meaningless here: nothing is caught up.
_BORN = datetime(2026, 1, 1, tzinfo=UTC)
_TASK = {
    "retries": 2,
    "retry_delay": timedelta(seconds=5),
    # A drain is bounded to 50 s; what takes twice that hangs and is our fault.
    "execution_timeout": timedelta(seconds=110),
}

_PARTNER_DOC = """\
### {title_zh}（{slug}）

收取 → 投递 → 对账。由时间表（每五分钟）与唤醒提示触发；每步至多 {budget:.0f} 秒，只在 XCom 中留下数量，业务数据不进入 Airflow。
对方不可达时本次运行仍为成功（见 `down`）；变红只说明我方有故障。

### {title_en} ({slug})

collect → deliver → reconcile, on a timetable (every five minutes) and woken by hints. Each step takes at most {budget:.0f} s and leaves only
counts in XCom: business data never enters Airflow. A partner that is down is a *successful* run (see `down`); red means our own fault.

{exchanges}

Messages: `dukou messages --partner {slug}`; what stopped: `dukou dead-letters --partner {slug}`.
"""


def partner_dag(
    slug: str, title_zh: str, title_en: str, *, deliver: tuple[str, ...], collect: tuple[str, ...] = ()
) -> DAG:
    """One partner's DAG.

    Args:
        slug: the partner, as in every folder.
        title_zh: its Chinese name, shown to operators.
        title_en: its English name.
        deliver: the exchanges that we send (``deliver`` and ``ask``), as ``connector.yaml`` names them.
        collect: the exchanges that we poll (``fetch``).
    """
    hints = Asset(name=f"work_{slug}", watchers=[AssetWatcher(name=f"hints_{slug}", trigger=HintTrigger(slug))])
    listed = "\n".join(
        [f"* 收取 collect: `{slug}/{name}`" for name in collect]
        + [f"* 投递 deliver: `{slug}/{name}`" for name in deliver]
    )
    with DAG(
        dag_id=slug,
        dag_display_name=f"{title_zh} {title_en}",
        description=f"{title_zh}：收取、投递、对账 / {title_en}: collect, deliver, reconcile",
        doc_md=_PARTNER_DOC.format(
            slug=slug, title_zh=title_zh, title_en=title_en, budget=work.BUDGET_S, exchanges=listed
        ),
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable(EVERY_FIVE_MINUTES, timezone="UTC"), assets=[hints]
        ),
        start_date=_BORN,
        catchup=False,
        max_active_runs=1,
        default_args=_TASK,
        tags=["partner 部门", slug],
    ) as dag:
        collected = _step("collect", f"收取{title_zh}结果 Collect", work.collect, slug)
        delivered = _step("deliver", f"向{title_zh}投递 Deliver", work.deliver, slug)
        reconciled = _step("reconcile", f"与{title_zh}对账 Reconcile", work.reconcile, slug)
        collected >> delivered >> reconciled
    return dag


def upkeep_dag(
    name: str, title_zh: str, title_en: str, schedule: str, steps: dict[str, tuple[str, Callable[[], work.Counts]]]
) -> DAG:
    """A DAG of upkeep: its steps one after the other, each ``task id: (readable name, what it does)``."""
    said = "\n".join(f"* {title}: {does.__doc__}" for title, does in steps.values())
    with DAG(
        dag_id=f"upkeep_{name}",
        dag_display_name=f"维护·{title_zh} {title_en}",
        description=f"{title_zh} / {title_en}",
        doc_md=f"### {title_zh} {title_en}\n\n{said}\n",
        schedule=CronTriggerTimetable(schedule, timezone="UTC"),
        start_date=_BORN,
        catchup=False,
        max_active_runs=1,
        default_args=_TASK | {"execution_timeout": timedelta(seconds=300)},
        tags=["upkeep 维护"],
    ) as dag:
        previous: Any = None
        for task_id, (title, does) in steps.items():
            step = _step(task_id, title, does)
            if previous is not None:
                previous >> step
            previous = step
    return dag


def _step(task_id: str, title: str, does: Callable[..., work.Counts], *given: str) -> Any:  # noqa: ANN401 - XComArg is Airflow's own
    """One task over a plain function, with a name and a text that an operator can read."""

    @task(task_id=task_id, task_display_name=title, doc_md=f"{title}\n\n{does.__doc__}")
    def run(*given: str) -> work.Counts:
        return does(*given)

    return run(*given)
