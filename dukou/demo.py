"""The demo: second-hand-home transfers through a live hub, among them every way in which a case can go wrong.

It drives the online hall's stand-in over HTTP and looks at the ledger; it knows nothing that an operator could not know.
Names and numbers are sentinels: synthetic, and easy to search for where they must not be.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import requests
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dukou import supervise
from dukou.build import Hub, build
from dukou.settings import Settings
from hub.model.states import CASE_ENDS
from hub.model.views import CaseView
from hub.pipeline.reading import LONGEST
from hub.store.messages import Totals

TENANT = "510199"
LIMIT_S = 240.0
DOWN_S = 12.0
CALM_S = 45.0
DEMO_SCALE = 10.0
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def citizen_id(n: int) -> str:
    """A synthetic citizen number (domain.md §4.2): born 1900-01-01 in a city-level area, sequence ``n``."""
    digits = f"51010019000101{n:03d}"
    return digits + "10X98765432"[sum(int(d) * w for d, w in zip(digits, WEIGHTS, strict=True)) % 11]


@dataclass(slots=True)
class Scene:
    """One case of the demo: what is sent, what must come of it, what came."""

    n: int
    scenario: str
    expected: str
    body: dict[str, Any]
    reason: str = ""
    case: str = ""
    state: str = ""
    seen_reason: str = ""
    begun: float = 0.0
    seconds: float = 0.0
    steps: list[str] = field(default_factory=list)
    waiting_for: str = ""

    @property
    def unit(self) -> str:
        """The unit that the case is about."""
        return str(self.body["BDCDYH"])

    @property
    def over(self) -> bool:
        """Nothing more will happen to it."""
        return self.state in CASE_ENDS

    @property
    def as_expected(self) -> bool:
        """It ended as its scenario says."""
        return self.state == self.expected and (not self.reason or self.seen_reason == self.reason)


SPECIAL: tuple[tuple[str, str, str], ...] = (
    ("wrong_check_digit", "refused", "citizen_id_invalid"),
    ("correction", "finished", ""),
    ("duplicate_callback", "finished", ""),
    ("lost_callback", "finished", ""),
    ("withdrawn", "withdrawn", "withdrawn_by_applicant"),
    ("seized_unit", "stopped", "unit_seized"),
    ("identity_mismatch", "refused", "identity_mismatch"),
)
SCENARIO_ZH = {
    "normal": "正常",
    "wrong_check_digit": "校验码错误",
    "correction": "缺件补正",
    "duplicate_callback": "税务重复回告",
    "lost_callback": "税务回告丢失, 轮询补取",
    "withdrawn": "申请人撤回",
    "seized_unit": "单元被查封",
    "identity_mismatch": "身份核验不一致",
    "tax_down": "税务停机后恢复",
}


def application(run: str, n: int) -> dict[str, Any]:
    """A complete application; every run has units and contracts of its own."""
    serial = int(run) * 1000 % 9_000_000 + n
    materials = ("不动产登记申请书", "不动产权属证书", "存量房买卖合同", "身份证明")
    return {
        "matter": "clf_transfer",
        "tenant": TENANT,
        "channel": "hall",
        "BDCDYH": f"510199001001GB00001F{serial % 10_000 + 1:04d}{serial // 10_000 % 9999 + 1:04d}",
        "BDCQZH": f"川(2025)测试市不动产权第{serial:07d}号",
        "HTBH": f"CLF-{run}-{n:04d}",
        "ZL": f"测试市测试路{n}号",
        "QLR": [_party("买受", n, 2 * n)],
        "YWR": [_party("出卖", n, 2 * n + 1)],
        "SJ": [{"SJMC": name, "SJLX": "1", "sha256": f"{n:064x}"} for name in materials],
        "HTJE": 860000.0 + n,
        "HTQDRQ": "2026-03-01",
        "JZMJ": 89.5,
        "FWYT": "11",
    }


def _party(role: str, n: int, person: int) -> dict[str, str]:
    return {
        "QLRMC": f"测试哨兵{role}{n:03d}",
        "ZJZL": "1",
        "ZJH": citizen_id(person % 1000),
        "GYFS": "0",
        "DH": f"1990000{n:04d}",
    }


def scenes(run: str, count: int) -> list[Scene]:
    """The cases of a run: the special ones first, then normal ones, some of them sent while tax is down."""
    found = []
    for n in range(1, count + 1):
        name, expected, reason = SPECIAL[n - 1] if n <= len(SPECIAL) else ("normal", "finished", "")
        body = application(run, n)
        if name == "wrong_check_digit":
            number = body["QLR"][0]["ZJH"]
            body["QLR"][0]["ZJH"] = number[:-1] + ("0" if number[-1] != "0" else "1")
            body["BDCDYH"] = body["BDCDYH"][:12] + "K" + body["BDCDYH"][13:]
        if name == "correction":
            body["SJ"] = [item for item in body["SJ"] if item["SJMC"] != "存量房买卖合同"]
        if name == "identity_mismatch":
            body["YWR"][0]["QLRMC"] += "不一致"
        found.append(Scene(n, name, expected, body, reason))
    for scene in found[-max(count // 4, 1) :]:
        if scene.scenario == "normal":
            scene.scenario = "tax_down"
    return found


class Stage:
    """The sandbox as the demo uses it: the hall's hands and the stand-ins' moods."""

    def __init__(self, settings: Settings) -> None:
        self._base = f"http://127.0.0.1:{settings.sandbox_port}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._moods: dict[str, dict[str, object]] = {}

    def do(self, action: str, **parameters: object) -> dict[str, Any]:
        """Let the hall do something."""
        answer = self._session.post(f"{self._base}/_do/hall/{action}", json=parameters, timeout=30)
        answer.raise_for_status()
        return dict(answer.json())

    def mood(self, partner: str, **settings: object) -> None:
        """Change how a stand-in behaves; what was set before stays."""
        merged = {**self._moods.get(partner, {}), **settings}
        self._moods[partner] = merged
        self._session.put(f"{self._base}/_control/{partner}", json=merged, timeout=10).raise_for_status()

    def reset(self) -> None:
        """Everyone behaves."""
        for partner in ("platform", "tax", "registry", "hall"):
            self._session.delete(f"{self._base}/_control/{partner}", timeout=10).raise_for_status()

    def told(self, partner: str, exchange: str, case: str) -> bool:
        """Whether a partner has received something about a case."""
        answer = self._session.get(f"{self._base}/_received/{partner}", params={"exchange": exchange}, timeout=10)
        return any(case in str(item.get("identity", "")) for item in answer.json())


def run_demo(settings: Settings, count: int, scenario: str, *, keep: bool, setup_seconds: float) -> int:
    """Run the demo. Returns the exit code: 0 only if every case ended as its scenario says and the evidence agrees."""
    # Without a terminal (CI, a log file) the table still needs its width.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if "DUKOU_RETRY_SCALE" not in os.environ:
        # The services are started with this: in a demo nobody wants to wait a minute for a poll.
        os.environ["DUKOU_RETRY_SCALE"] = str(DEMO_SCALE)
        settings = Settings.from_env(os.environ)
    if scenario == "all":
        console.print("本版本 all 与 main 相同 / in this release `all` plays the same scenes as `main`")
    supervise.down(settings)
    began = time.monotonic()
    console.print("[bold]渡口演示 / Dukou demo[/bold]: 启动服务 / starting services …")
    supervise.up(set(), settings)
    console.print(f"服务已就绪 / services are up after {time.monotonic() - began:.0f} s")
    try:
        hub = build(settings)
        try:
            good = _play(hub, console, count, scenario, began, setup_seconds)
        finally:
            hub.close()
    finally:
        if not keep:
            supervise.down(settings)
    if keep:
        console.print("服务继续运行; 用 make down 停止 / services keep running; stop them with make down")
    return 0 if good else 1


def _play(hub: Hub, console: Console, count: int, scenario: str, began: float, setup_seconds: float) -> bool:
    started = hub.parts.clock()
    before = hub.reading.totals(started)
    stage = Stage(hub.settings)
    stage.reset()
    cast = scenes(str(started // 1000 % 10_000_000), count)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("办件 / cases", total=len(cast))
        show = lambda: bar.update(task, completed=sum(scene.over for scene in cast))  # noqa: E731
        _perform(hub, stage, cast, show)
        _wait_for(lambda: _look(hub, cast, show) and hub.reading.open_messages() == 0, LIMIT_S)
    stage.reset()
    hub.seal()
    report = hub.verify()
    runs = _dag_runs(hub.settings, started)
    summary = _summary(hub, cast, before, started) | {
        **runs,
        "ledger_verified": report.ok,
        "setup_seconds": round(setup_seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
        "scenario": scenario,
    }
    place = hub.settings.var / "demo" / "summary.json"
    place.write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    _print(console, cast, summary)
    console.print(f"汇总 / summary: {place}")
    return _good(summary, cast)


def _perform(hub: Hub, stage: Stage, cast: list[Scene], show: Callable[[], None]) -> None:
    """Set the moods, send every case, and play the parts of applicant and power failure."""
    units = {scene.scenario: scene.unit for scene in cast}
    stage.mood(
        "tax",
        duplicate_callbacks=[units.get("duplicate_callback", "")],
        skip_callback=[units.get("lost_callback", ""), units.get("withdrawn", "")],
    )
    stage.mood("registry", seized_units=[units.get("seized_unit", "")])
    for scene in cast:
        if scene.scenario != "tax_down":
            _apply(stage, scene)
    for scene in cast:
        if scene.scenario == "correction":
            material = {"SJMC": "存量房买卖合同", "SJLX": "1", "sha256": f"{scene.n:064x}"}
            stage.do("correct", case=scene.case, body={"SJ": [material]})
        if scene.scenario == "withdrawn":
            # Withdrawn when tax and registry have been told, so that both must be told again.
            _wait_for(partial(_both_told, stage, scene.case), 60)
            stage.do("withdraw", case=scene.case, body={"reason": "演示撤回"})
        _look(hub, cast, show)
    down = [scene for scene in cast if scene.scenario == "tax_down"]
    # Let the others pass first, so that their times show the hub at work and not the outage.
    _wait_for(lambda: _look(hub, [scene for scene in cast if scene not in down], show), CALM_S)
    if down:
        stage.mood("tax", down=True)
        for scene in down:
            _apply(stage, scene)
        until = time.monotonic() + DOWN_S
        while time.monotonic() < until:
            _look(hub, cast, show)
            time.sleep(0.5)
        stage.mood("tax", down=False)


def _both_told(stage: Stage, case: str) -> bool:
    return stage.told("registry", "case", case) and stage.told("tax", "taxable_case", case)


def _apply(stage: Stage, scene: Scene) -> None:
    scene.begun = time.monotonic()
    answer = stage.do("apply", body=scene.body)
    body = answer["body"]
    if answer["status"] == 202:
        scene.case = body["case"]
        return
    scene.state = "refused"
    scene.seen_reason = next(
        (f["code"] for f in body.get("faults", ()) if f["code"] == scene.reason), body.get("code", "")
    )
    scene.steps = [f"{fault['path']} {fault['code']}" for fault in body.get("faults", ())]
    scene.seconds = time.monotonic() - scene.begun


def _look(hub: Hub, cast: list[Scene], show: Callable[[], None]) -> bool:
    """Look where every case stands. True when all are over."""
    views: Mapping[str, CaseView] = {view.case: view for view in hub.reading.cases(None, "", LONGEST)}
    for scene in cast:
        view = views.get(scene.case)
        if view is not None and not scene.over:
            scene.state, scene.seen_reason, scene.waiting_for = view.state, view.reason, view.waiting_for
            scene.seconds = time.monotonic() - scene.begun
    show()
    return all(scene.over for scene in cast)


def _wait_for(done: Callable[[], bool], limit_s: float) -> bool:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.5)
    return False


def _summary(hub: Hub, cast: list[Scene], before: Totals, started: int) -> dict[str, Any]:
    after = hub.reading.totals(started)
    by_state = [scene.state for scene in cast]
    for scene in cast:
        if scene.case:
            scene.steps = list(dict.fromkeys(row.step for row in hub.reading.timeline(scene.case, None) if row.step))
    return {
        "cases_total": len(cast),
        "cases_finished": by_state.count("finished"),
        "cases_refused": by_state.count("refused"),
        "cases_stopped": by_state.count("stopped"),
        "cases_withdrawn": by_state.count("withdrawn"),
        "cases_open": sum(not scene.over for scene in cast),
        "messages_total": after.messages,
        "messages_delivered": after.delivered,
        "messages_open": hub.reading.open_messages(),
        "deliveries_by_courier": after.by_courier,
        "deliveries_by_airflow": after.by_airflow,
        "duplicates_absorbed": after.duplicates - before.duplicates,
        "dead_letters": after.dead,
        "cases": [
            {
                "case": scene.case,
                "scenario": scene.scenario,
                "expected": scene.expected,
                "state": scene.state,
                "reason": scene.seen_reason,
                "seconds": round(scene.seconds, 1),
            }
            for scene in cast
        ],
    }


def _dag_runs(settings: Settings, started: int) -> dict[str, int]:
    """Ask Airflow how its runs since the start went."""
    told = json.loads((settings.var / "demo" / "credentials.json").read_text(encoding="utf-8"))["airflow"]
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started / 1000))
    with requests.Session() as session:
        session.trust_env = False
        login = {"username": told["user"], "password": told["password"]}
        token = session.post(f"{told['url']}/auth/token", json=login, timeout=30).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"

        def count(state: str) -> int:
            query: dict[str, str | int] = {"state": state, "end_date_gte": since, "limit": 1}
            answer = session.get(f"{told['url']}/api/v2/dags/~/dagRuns", params=query, timeout=30)
            answer.raise_for_status()
            return int(answer.json()["total_entries"])

        return {"dag_runs_succeeded": count("success"), "dag_runs_failed": count("failed")}


def _print(console: Console, cast: list[Scene], summary: Mapping[str, Any]) -> None:
    table = Table(
        "办件 case",
        "情景 scenario",
        "状态 state",
        "原因 reason",
        "等待 waiting for",
        "步骤 steps",
        "秒 s",
        title="渡口演示 / Dukou demo",
    )
    for scene in cast:
        mark = "" if scene.as_expected else f" [red]≠ {scene.expected}[/red]"
        name = f"{SCENARIO_ZH[scene.scenario]} {scene.scenario}"
        steps = str(len(scene.steps)) if scene.case else "; ".join(scene.steps)
        table.add_row(
            scene.case or "–",
            name,
            scene.state + mark,
            scene.seen_reason,
            scene.waiting_for,
            steps,
            f"{scene.seconds:.1f}",
        )
    console.print(table)
    figures = {name: value for name, value in summary.items() if name != "cases"}
    console.print_json(json.dumps(figures))


def _good(summary: Mapping[str, Any], cast: list[Scene]) -> bool:
    return (
        all(scene.as_expected for scene in cast)
        and summary["ledger_verified"]
        and summary["dag_runs_failed"] == 0
        and summary["messages_open"] == 0
        and summary["deliveries_by_courier"] > 0
        and summary["deliveries_by_airflow"] > 0
    )
