"""The ``dukou`` command: single processes, setup, and every question an operator asks of the ledger."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dukou.settings import Settings
from hub.errors import Fault, HubError, Misconfigured, Refused

if TYPE_CHECKING:
    from dukou.build import Hub

# Imports inside the commands keep `dukou settings` and `dukou serve` quick: nobody pays for what it does not use.
# ruff: noqa: PLC0415


class Group(click.Group):
    """A group whose commands end with a bilingual message instead of a traceback when we know what is wrong."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run the command; a known error becomes a message and exit code 2."""
        try:
            return super().invoke(ctx)
        except (Refused, Misconfigured) as error:
            _fail(error, error.faults)
        except HubError as error:
            _fail(error, ())


def _fail(error: HubError, faults: Iterable[Fault]) -> NoReturn:
    click.echo(f"{error.code}: {error.zh} / {error.en}", err=True)
    for fault in faults:
        click.echo(f"  {fault.path}: {fault.code}: {fault.zh} / {fault.en}", err=True)
    sys.exit(2)


def _settings() -> Settings:
    return Settings.from_env(os.environ)


def _with_hub(work: Callable[[Hub], None]) -> None:
    from dukou.build import build
    from hub.store.migrate import upgrade

    settings = _settings()
    upgrade(settings.database_url)
    hub = build(settings)
    try:
        work(hub)
    finally:
        hub.close()


def _show(rows: Iterable[Mapping[str, object]], *, as_json: bool, columns: tuple[str, ...]) -> None:
    """JSON Lines for programs, a table for people."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in columns:
        # A number that is cut short cannot be copied into the next command.
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "case", "pid", "state"))
    for row in rows:
        table.add_row(*(_shown(row.get(name, "")) for name in columns))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _shown(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


JSON = click.option("--json", "as_json", is_flag=True, help="JSON Lines")


@click.group(cls=Group)
def main() -> None:
    """渡口 Dukou: 不动产登记数据交换枢纽 / data-exchange hub for real-estate registration."""
    # Whatever we write is for this user alone.
    os.umask(0o077)


# Processes -------------------------------------------------------------------------------------------------------


@main.command()
def serve() -> None:
    """网关 / run the gateway."""
    from dukou.logs import log_to_stderr
    from dukou.serve import serve as run

    log_to_stderr()
    _with_hub(run)


@main.command()
def courier() -> None:
    """信使 / run a courier."""
    from dukou.courier import run_until_signal
    from dukou.logs import log_to_stderr

    log_to_stderr()
    _with_hub(run_until_signal)


@main.command()
def setup() -> None:
    """准备 var/: 密钥、数据库、演示凭据 / prepare var/: keys, databases, demo credentials."""
    from dukou.setup import prepare

    prepare(_settings())


@main.group()
def supervise() -> None:
    """全部服务 / all services."""


def _only(text: str) -> set[str]:
    return {item.strip() for item in text.split(",") if item.strip()}


@supervise.command()
@click.option("--only", default="", help="gateway,courier,sandbox,airflow")
def up(only: str) -> None:
    """启动 / start."""
    from dukou import supervise as services

    services.up(_only(only), _settings())


@supervise.command()
@click.option("--only", default="", help="gateway,courier,sandbox,airflow")
def down(only: str) -> None:
    """停止 / stop."""
    from dukou import supervise as services

    services.down(_settings(), _only(only))


@supervise.command()
def status() -> None:
    """状态 / status."""
    from dukou import supervise as services

    rows = services.status(_settings())
    _show(
        map(dataclasses.asdict, rows),
        as_json=False,
        columns=tuple(f.name for f in dataclasses.fields(services.ServiceStatus)),
    )
    sys.exit(services.exit_code(rows))


@supervise.command()
@click.option("--only", default="")
def run(only: str) -> None:
    """前台监管进程 / the supervisor itself."""
    from dukou import supervise as services

    services.run(_only(only), _settings())


@main.command()
@click.option("--cases", "count", default=20, show_default=True, help="办件数 / number of cases")
@click.option("--scenario", type=click.Choice(["main", "all"]), default="main", show_default=True)
@click.option("--keep", is_flag=True, help="不停止服务 / leave the services running")
@click.option("--setup-seconds", default=0.0, hidden=True)
def demo(count: int, scenario: str, keep: bool, setup_seconds: float) -> None:  # noqa: FBT001
    """演示 / run the demo."""
    from dukou.demo import run_demo

    sys.exit(run_demo(_settings(), count, scenario, keep=keep, setup_seconds=setup_seconds))


# Reading ---------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--partner", default="")
@click.option("--exchange", default="")
@click.option("--state", default="")
@click.option("--case", "case_no", default="")
@click.option("--limit", default=200, show_default=True)
@JSON
def messages(partner: str, exchange: str, state: str, case_no: str, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """报文 / messages, newest first."""
    from hub.store.messages import Filter

    wanted = Filter(partner=partner, exchange=exchange, state=state, case_no=case_no, limit=limit)
    columns = ("id", "tenant", "partner", "exchange", "direction", "case", "state", "attempts", "reason", "updated")
    _with_hub(
        lambda hub: _show(map(dataclasses.asdict, hub.reading.messages(wanted)), as_json=as_json, columns=columns)
    )


@main.command("dead-letters")
@click.option("--partner", default="")
@click.option("--limit", default=200, show_default=True)
@JSON
def dead_letters(partner: str, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """死信: 原因、责任方、时长 / dead letters with reason, owner and age."""
    columns = ("id", "partner", "exchange", "case", "reason", "owner", "age_s", "attempts")
    _with_hub(lambda hub: _show(hub.reading.dead_letters(partner, limit), as_json=as_json, columns=columns))


@main.command()
@click.argument("message_ids", nargs=-1, required=True)
@click.option("--skip", is_flag=True, help="放弃而不重放 / give up instead of sending again")
def replay(message_ids: tuple[str, ...], skip: bool) -> None:  # noqa: FBT001
    """重放死信 / put dead letters back to work."""

    def work(hub: Hub) -> None:
        for message_id in message_ids:
            state = hub.mending.skip(message_id) if skip else hub.mending.replay(message_id)
            click.echo(f"{message_id} {state}")

    _with_hub(work)


@main.command()
@click.argument("no", required=False)
@click.option("--state", default="")
@click.option("--limit", default=200, show_default=True)
@JSON
def cases(no: str | None, state: str, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """办件; 给出业务号则显示时间线 / cases; with a number, its timeline."""

    def work(hub: Hub) -> None:
        if no:
            rows = [dataclasses.asdict(row) for row in hub.reading.timeline(no, None)]
            _show(rows, as_json=as_json, columns=("at", "step", "partner", "exchange", "message", "state"))
            return
        columns = ("case", "unified_no", "matter", "tenant", "state", "step", "waiting_for", "reason", "updated")
        _show(map(dataclasses.asdict, hub.reading.cases(None, state, limit)), as_json=as_json, columns=columns)

    _with_hub(work)


@main.command()
@JSON
def partners(as_json: bool) -> None:  # noqa: FBT001
    """合作部门及其可用状态 / partners and their health."""
    _with_hub(
        lambda hub: _show(
            hub.reading.partners(), as_json=as_json, columns=("partner", "name_zh", "name_en", "up", "code", "since")
        )
    )


@main.command()
@JSON
def exchanges(as_json: bool) -> None:  # noqa: FBT001
    """已声明的交换 / declared exchanges."""
    from hub.registry.declarations import Declarations

    declared = Declarations.load(_settings().root).exchanges()
    names = (
        "partner",
        "exchange",
        "direction",
        "lane",
        "protocol",
        "contract",
        "mapping",
        "redelivery",
        "zones",
        "source",
    )
    rows = [
        {
            **{name: getattr(item, name) for name in names if name != "exchange"},
            "exchange": item.name,
            "zones": list(item.zones),
        }
        for item in declared
    ]
    _show([{name: row[name] for name in names} for row in rows], as_json=as_json, columns=names)


@main.command()
@JSON
def settings(as_json: bool) -> None:  # noqa: FBT001
    """设置 / settings."""
    rows = [dataclasses.asdict(row) for row in _settings().rows()]
    _show(rows, as_json=as_json, columns=("name", "value", "given", "zh", "en"))


@main.command()
def check() -> None:
    """检查全部声明 / check every declaration."""
    from hub.registry.checking import check_declarations
    from hub.registry.declarations import Declarations
    from hub.registry.matters import check_matters

    root = _settings().root
    found = list(check_declarations(root))
    if not found:
        found = check_matters(root, Declarations.load(root))[0]
    for fault in found:
        click.echo(f"{fault.path}: {fault.code}: {fault.zh} / {fault.en}", err=True)
    if found:
        click.echo(f"{len(found)} 处错误 / faults", err=True)
        sys.exit(1)
    click.echo("声明无误 / declarations are right")


# Evidence --------------------------------------------------------------------------------------------------------


@main.command("verify-ledger")
@JSON
def verify_ledger(as_json: bool) -> None:  # noqa: FBT001
    """校验账本 / compare the ledger with itself and its anchors."""

    def work(hub: Hub) -> None:
        report = hub.verify()
        faults = [dataclasses.asdict(item) for item in report.found]
        answer: dict[str, object] = {"ok": True, **report.figures} if report.ok else {"ok": False, "faults": faults}
        if as_json:
            click.echo(json.dumps(answer, ensure_ascii=False))
        elif report.ok:
            figures = report.figures
            click.echo(
                f"账本无误 / ledger agrees: {figures['events']} events, {figures['sealed']} sealed, tail {figures['tail']}"
            )
        else:
            click.echo("账本有误 / the ledger does not agree:", err=True)
            for item in report.found:
                click.echo(f"  {item.table} {item.id}: {item.kind}", err=True)
        if not report.ok:
            hub.close()
            sys.exit(1)

    _with_hub(work)


@main.command()
def seal() -> None:
    """封存新事件并写锚点 / seal new events and write anchors."""
    _with_hub(lambda hub: click.echo(json.dumps(hub.seal())))


@main.command()
@click.option("--caller", required=True)
@click.option("--sid", required=True, help="服务键或 sid / a service key of the caller, or the sid itself")
@click.option("--method", default="POST", show_default=True)
@click.option("--url", required=True)
@click.option("--body", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None)
def sign(caller: str, sid: str, method: str, url: str, body: Path | None) -> None:
    """签名: 输出 curl 头 / print signed curl header lines."""
    from urllib.parse import urlsplit

    from hub.security.keys import Keyring, key_path
    from hub.security.signing import Request, headers

    callers = Keyring.load(key_path(_settings().keys)).callers
    who = callers.get(caller)
    if who is None:
        raise click.BadParameter(f"known callers: {', '.join(sorted(callers))}", param_hint="--caller")
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = Request(method.upper(), target, body.read_bytes() if body else b"")
    for name, value in headers(who, who.sids.get(sid, sid), int(time.time() * 1000), request).items():
        click.echo(f"{name}: {value}")
