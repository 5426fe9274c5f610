"""Starts the hub's processes, keeps them alive, stops them, and says how they are."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from dukou.airflow.environment import clean, environment
from dukou.settings import Settings
from hub.errors import Fault, Misconfigured

HOST = "127.0.0.1"
TICK_S = 0.2
# Between deaths: at once, then slower, never more than five seconds.
BACKOFF_S = (0.0, 1.0, 2.0, 4.0, 5.0)
# Who lived this long has recovered: its next death is a first one again.
SETTLED_S = 20.0
# Long enough for a drain's current delivery to end; what is killed later is taken up again by its lease.
STOP_S = 20.0
UP_S = 150.0
# A process that dies this often before it is ever healthy will not become so by waiting.
HOPELESS = 5
LOG_LIMIT = 20 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """One process: how it is started, what it listens on, which of ``ONLY``'s words mean it."""

    name: str
    group: str
    argv: tuple[str, ...]
    ports: Callable[[Settings], tuple[tuple[int, str], ...]] = lambda _: ()
    airflow: bool = False


def _sandbox_ports(settings: Settings) -> tuple[tuple[int, str], ...]:
    return tuple((settings.sandbox_port + n, "DUKOU_SANDBOX_PORT") for n in range(5))


# `--skip-serve-logs`: the log servers of both listen on every interface and know no other way.
SERVICES: tuple[Service, ...] = (
    Service("gateway", "gateway", ("dukou", "serve"), lambda s: ((s.gateway_port, "DUKOU_GATEWAY_PORT"),)),
    Service("courier", "courier", ("dukou", "courier")),
    Service("sandbox", "sandbox", ("sandbox",), _sandbox_ports),
    Service(
        "api-server",
        "airflow",
        ("airflow", "api-server"),
        lambda s: ((s.airflow_port, "DUKOU_AIRFLOW_PORT"),),
        airflow=True,
    ),
    Service("scheduler", "airflow", ("dukou.airflow.scheduler", "--skip-serve-logs"), airflow=True),
    Service("triggerer", "airflow", ("airflow", "triggerer", "--skip-serve-logs"), airflow=True),
    Service("dag-processor", "airflow", ("airflow", "dag-processor"), airflow=True),
)
NAMES = tuple(service.name for service in SERVICES)
USED_BY_OTHERS = frozenset({"gateway", "sandbox", "api-server"})
_BY_NAME = {service.name: service for service in SERVICES}
# The part of Airflow's health answer that speaks of a process.
_AIRFLOW_PART = {
    "api-server": "metadatabase",
    "scheduler": "scheduler",
    "triggerer": "triggerer",
    "dag-processor": "dag_processor",
}


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One line of ``make status``. ``trouble`` is empty when the process does its work."""

    name: str
    pid: int
    state: str
    restarts: int
    seconds: float
    trouble: str
    log: str


@dataclass(frozen=True, slots=True)
class Born:
    """A process that cannot be mistaken for another: its id, the kernel's start tick, when it was started, how often it died before.

    Between a death and the next start the id and the tick are 0.
    """

    pid: int
    tick: int
    at: float
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """The files under ``var/run``: who should run, who runs, and the lock of the one supervisor."""

    settings: Settings

    @property
    def run(self) -> Path:
        """``var/run``."""
        return self.settings.var / "run"

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.settings.var / "log" / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        """The file that holds nothing but the real process id."""
        return self.run / f"{name}.pid"

    def make(self) -> None:
        """Make the folders, for their owner only."""
        for folder in (self.settings.var, self.run, self.settings.var / "log"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def wanted(self) -> set[str]:
        """The processes that should run."""
        return set(_read(self.run / "wanted.json", list[str])) & set(NAMES)

    def want(self, names: Collection[str]) -> None:
        """Say who should run; the supervisor looks at every tick."""
        _write(self.run / "wanted.json", json.dumps(sorted(names)))

    def born(self) -> dict[str, Born]:
        """Who was started last, also by a supervisor that is gone."""
        found = _read(self.run / "children.json", dict[str, dict[str, Any]])
        return {name: Born(**value) for name, value in found.items() if name in _BY_NAME}

    def remember(self, born: dict[str, Born]) -> None:
        """Write down who runs: the pid files for people and scripts, the rest for the next supervisor."""
        plain = {name: {"pid": b.pid, "tick": b.tick, "at": b.at, "restarts": b.restarts} for name, b in born.items()}
        _write(self.run / "children.json", json.dumps(plain))
        for name in NAMES:
            if name in born and born[name].pid:
                _write(self.pid_file(name), f"{born[name].pid}\n")
            else:
                self.pid_file(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold the supervisor's lock; false when another holds it. A dead holder holds nothing."""
        self.make()
        with (self.run / "supervisor.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def supervised(self) -> bool:
        """Whether a supervisor is alive."""
        with self.lock() as free:
            return not free


def services(only: Collection[str]) -> tuple[str, ...]:
    """The processes that the words of ``ONLY`` mean; no word means all.

    Raises:
        Misconfigured: ``service_unknown``, with the known words.
    """
    groups = {service.group for service in SERVICES}
    unknown = sorted(set(only) - groups - set(NAMES))
    if unknown:
        known = ", ".join(sorted(groups | set(NAMES)))
        raise Misconfigured(
            "service_unknown",
            f"unknown service {', '.join(unknown)}; known: {known}",
            f"没有这个服务：{', '.join(unknown)}；可选：{known}",
        )
    return tuple(s.name for s in SERVICES if not only or s.name in only or s.group in only)


def up(only: Collection[str], settings: Settings, limit_s: float = UP_S) -> tuple[ServiceStatus, ...]:
    """Start what is asked for, beside what already runs, and wait until it is healthy.

    Raises:
        Misconfigured: ``port_in_use`` (naming port and setting), ``service_unknown``, ``airflow_secrets_missing`` or ``not_healthy``
            (naming the processes and their logs).
    """
    names = services(only)
    place = Place(settings)
    place.make()
    if any(_BY_NAME[name].airflow for name in names):
        environment({}, settings)
    running = place.supervised()
    if not running:
        _bury(place)
    elif differing := _differing(place, settings):
        named = ", ".join(differing)
        _say(
            f"running services keep their own {named}: make down first / 运行中的服务仍用原来的 {named}，请先 make down"
        )
    _ports_are_free([name for name in names if name not in place.born()], settings)
    place.want(set(names) | (place.wanted() if running else set()))
    if not running:
        _detach(place)
    _wait_until_healthy(names, settings, limit_s)
    return tuple(row for row in status(settings) if row.name in names)


def down(settings: Settings, only: Collection[str] = ()) -> None:
    """Stop everything, or what is named; also what a killed supervisor left behind."""
    place = Place(settings)
    place.make()
    if only and place.supervised():
        names = set(services(only))
        place.want(place.wanted() - names)
        _wait(lambda: not names & set(place.born()), 2 * STOP_S + 10)
        return
    if place.supervised():
        pid = int(place.pid_file("supervisor").read_text())
        os.kill(pid, signal.SIGTERM)
        if not _wait(lambda: _start_tick(pid) == 0, 2 * STOP_S + 10):
            os.kill(pid, signal.SIGKILL)
            _wait(lambda: _start_tick(pid) == 0, 5)
    _bury(place)
    place.want(())


def status(settings: Settings) -> tuple[ServiceStatus, ...]:
    """How every process is; those that nobody asked for are ``stopped``."""
    place = Place(settings)
    place.make()
    running, wanted, born = place.supervised(), place.wanted(), place.born()
    airflow = _airflow_health(settings) if any(_BY_NAME[name].airflow for name in born) else None
    return tuple(
        _status(name, place, born.get(name), wanted=name in wanted and running, airflow=airflow) for name in NAMES
    )


def exit_code(rows: Collection[ServiceStatus]) -> int:
    """0 when something runs and nothing that should run is in trouble."""
    live = [row for row in rows if row.state != "stopped"]
    return 0 if live and not any(row.trouble for row in live) else 1


def run(only: Collection[str], settings: Settings) -> None:
    """Be the supervisor, until told to stop. Without words it runs what ``up`` asked for.

    Raises:
        Misconfigured: ``supervisor_running`` when another one is alive.
    """
    place = Place(settings)
    with place.lock() as free:
        if not free:
            raise Misconfigured("supervisor_running", "a supervisor is already running", "已有一个监管进程在运行")
        _bury(place)
        if only:
            place.want(services(only))
        _write(place.pid_file("supervisor"), f"{os.getpid()}\n")
        try:
            Supervisor(place).watch()
        finally:
            place.pid_file("supervisor").unlink(missing_ok=True)


@dataclass(slots=True)
class Supervisor:
    """The loop: start who is wanted and missing, stop who is not wanted, bury the dead with all their descendants."""

    place: Place
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    born: dict[str, Born] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    stopping: bool = False

    def watch(self) -> None:
        """Until SIGTERM or SIGINT, then stop everyone."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        # `up` may be run from a terminal that is closed afterwards.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while not self.stopping:
            self._tick()
            time.sleep(TICK_S)
        self._end(list(self.children))

    def _stop(self, _signum: int, _frame: object) -> None:
        self.stopping = True

    def _tick(self) -> None:
        wanted = self.place.wanted()
        for name in [name for name, child in self.children.items() if child.poll() is not None]:
            self._died(name)
        self._end([name for name in self.children if name not in wanted])
        for name in set(self.born) - set(self.children) - wanted:
            self.born.pop(name)
            self.place.remember(self.born)
        for name in NAMES:
            if name in wanted and name not in self.children and time.monotonic() >= self.due.get(name, 0.0):
                self._start(name)

    def _start(self, name: str) -> None:
        service, settings = _BY_NAME[name], self.place.settings
        make = environment if service.airflow else clean
        with _log_file(self.place.log(name)) as log:
            child = subprocess.Popen(
                [sys.executable, "-m", *service.argv],
                env=make(os.environ, settings),
                cwd=settings.var,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: its descendants can be found by it, whatever groups they make.
                start_new_session=True,
            )
        self.children[name] = child
        self.born[name] = Born(child.pid, _start_tick(child.pid), time.time(), self.deaths.get(name, 0))
        self.place.remember(self.born)
        _say(f"{name}: started, pid {child.pid}")

    def _died(self, name: str) -> None:
        child, born = self.children.pop(name), self.born.pop(name)
        _kill_session(born)
        lived = time.time() - born.at
        if lived > SETTLED_S:
            self.deaths[name] = 0
        wait = BACKOFF_S[min(self.deaths.get(name, 0), len(BACKOFF_S) - 1)]
        self.deaths[name] = self.deaths.get(name, 0) + 1
        self.due[name] = time.monotonic() + wait
        self.born[name] = Born(0, 0, time.time(), self.deaths[name])
        self.place.remember(self.born)
        _say(f"{name}: ended with {child.returncode} after {lived:.1f} s, again in {wait:.0f} s")

    def _end(self, names: list[str]) -> None:
        """First those who use others, then those whom they use, so that a task may still report what it did."""
        self._end_wave([name for name in names if name not in USED_BY_OTHERS])
        self._end_wave([name for name in names if name in USED_BY_OTHERS])

    def _end_wave(self, names: list[str]) -> None:
        """Ask, wait, then kill; descendants that outlive their parent are killed with its session."""
        if not names:
            return
        for name in names:
            self.children[name].terminate()
        _wait(lambda: all(self.children[name].poll() is not None for name in names), STOP_S)
        for name in names:
            child, born = self.children.pop(name), self.born.pop(name)
            if child.poll() is None:
                child.kill()
            _kill_session(born)
            child.wait()
            self.deaths.pop(name, None)
            self.due.pop(name, None)
            _say(f"{name}: stopped")
        self.place.remember(self.born)


# ---- health -------------------------------------------------------------------------------------------------


def _wait_until_healthy(names: Collection[str], settings: Settings, limit_s: float) -> None:
    ends = time.monotonic() + limit_s
    while True:
        bad = [row for row in status(settings) if row.name in names and row.trouble]
        if not bad:
            return
        hopeless = [row for row in bad if row.restarts >= HOPELESS]
        if hopeless or time.monotonic() > ends:
            break
        time.sleep(0.5)
    bad = hopeless or bad
    listed = "; ".join(f"{row.name} ({row.trouble}), log {row.log}" for row in bad)
    raise Misconfigured(
        "not_healthy",
        f"not healthy: {listed}",
        f"未能正常工作：{listed}",
        faults=tuple(
            Fault(f"/{row.name}", "not_healthy", f"{row.trouble}; see {row.log}", f"请看日志 {row.log}") for row in bad
        ),
    )


def _status(
    name: str, place: Place, born: Born | None, *, wanted: bool, airflow: dict[str, dict[str, str]] | None
) -> ServiceStatus:
    log = str(place.log(name))
    if born is None or not _alive(born):
        state, trouble = ("restarting", "is not running") if wanted else ("stopped", "")
        return ServiceStatus(name, 0, state, born.restarts if born else 0, 0.0, trouble, log)
    state = "running" if wanted else "left behind"
    trouble = _trouble(name, born, place.settings, airflow) if wanted else "is not supervised any more: run `make down`"
    return ServiceStatus(name, born.pid, state, born.restarts, time.time() - born.at, trouble, log)


def _trouble(name: str, born: Born, settings: Settings, airflow: dict[str, dict[str, str]] | None) -> str:
    """What keeps a living process from its work, or nothing."""
    if name == "gateway":
        return _http_trouble(settings.gateway_port, "/healthz")
    if name == "sandbox":
        return _http_trouble(settings.sandbox_port, "/_health")
    if name not in _AIRFLOW_PART:
        return "" if time.time() - born.at > 1.0 else "has just been started"
    part = _AIRFLOW_PART[name]
    if airflow is None:
        return "Airflow's health does not answer"
    found = airflow.get(part) or {}
    if found.get("status") != "healthy":
        return "reports itself unhealthy"
    beat = found.get(f"latest_{part}_heartbeat")
    # A heartbeat from before its birth is its predecessor's.
    return (
        "has no heartbeat yet" if beat and datetime.fromisoformat(beat) < datetime.fromtimestamp(born.at, UTC) else ""
    )


def _http_trouble(port: int, path: str) -> str:
    code, _ = _get(port, path)
    return "" if code == http.HTTPStatus.OK else f"{path} answers {code}" if code else f"{path} does not answer"


def _airflow_health(settings: Settings) -> dict[str, dict[str, str]] | None:
    code, body = _get(settings.airflow_port, "/api/v2/monitor/health")
    if code != http.HTTPStatus.OK:
        return None
    found: dict[str, dict[str, str]] = json.loads(body)
    return found


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=3)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _differing(place: Place, settings: Settings) -> list[str]:
    """Settings with which the running services were started and that are others now. Names only: values may be secret."""
    pid = _read(place.pid_file("supervisor"), int)
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return []
    theirs = dict(item.split("=", 1) for item in raw.decode(errors="replace").split("\0") if "=" in item)
    return sorted(name for name, value in settings.to_env().items() if theirs.get(name, value) != value)


def _ports_are_free(names: Collection[str], settings: Settings) -> None:
    taken = [
        (port, setting, name) for name in names for port, setting in _BY_NAME[name].ports(settings) if _listening(port)
    ]
    if taken:
        listed = ", ".join(f"{port} ({setting}, {name})" for port, setting, name in taken)
        raise Misconfigured(
            "port_in_use",
            f"port in use by another process: {listed}; free it or choose another by that setting",
            f"端口已被其他进程占用：{listed}；请释放端口或修改该设置",
            faults=tuple(
                Fault(f"/{setting}", "port_in_use", f"port {port}", f"端口 {port}") for port, setting, _ in taken
            ),
        )


def _listening(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
        return False


# ---- processes ----------------------------------------------------------------------------------------------


def _detach(place: Place) -> None:
    """Start the supervisor as a process of its own and wait until it holds its lock."""
    with _log_file(place.log("supervisor")) as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "dukou.supervise"],
            env=clean(os.environ, place.settings),
            cwd=place.settings.var,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It outlives us on purpose: let Popen not complain that nobody waited for it.
    if (
        not _wait(lambda: child.poll() is not None or place.pid_file("supervisor").exists(), 20)
        or child.poll() is not None
    ):
        raise Misconfigured(
            "supervisor_failed",
            f"the supervisor did not start, see {place.log('supervisor')}",
            f"监管进程未能启动，请看日志 {place.log('supervisor')}",
        )
    child.returncode = 0


def _bury(place: Place) -> None:
    """End what a killed supervisor left behind. Only called while no other supervisor is alive."""
    left = place.born()
    for born in left.values():
        if _alive(born):
            os.kill(born.pid, signal.SIGTERM)
    _wait(lambda: not any(_alive(born) for born in left.values()), STOP_S)
    for born in left.values():
        _kill_session(born)
    place.remember({})
    place.pid_file("supervisor").unlink(missing_ok=True)


def _alive(born: Born) -> bool:
    """Whether this very process lives: ids are used again, an id with its start tick is not."""
    return _start_tick(born.pid) == born.tick != 0


def _kill_session(born: Born) -> None:
    """Kill everything that a process started, itself included.

    The kernel does not give a process id away while a session has it as its name. So a session of this number is ours if its leader
    still is ours, or if the leader is gone and the members are younger than it and run our interpreter or Airflow.
    """
    for _ in range(50):
        members = [pid for pid in _session(born.pid) if _is_ours(pid, born)]
        if not members:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _is_ours(pid: int, born: Born) -> bool:
    leader = _start_tick(born.pid)
    if leader not in {0, born.tick} or not 0 < born.tick <= _start_tick(pid):
        return False
    if pid == born.pid:
        return True
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    # Airflow renames its processes ("airflow worker -- …").
    return command.startswith(b"airflow") or sys.executable.encode() in command


def _session(leader: int) -> list[int]:
    """The living members of a session."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if (found := _stat(pid)) and found[3] == str(leader) and found[0] != "Z"]


def _start_tick(pid: int) -> int:
    """When a process was started, in the kernel's ticks since boot; 0 if it is gone or a zombie."""
    found = _stat(pid)
    return int(found[19]) if found and found[0] != "Z" else 0


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the state on (proc(5)); the name before them may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


# ---- small files --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[IO[bytes]]:
    """The log to append to, private; a large one is put aside first."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:  # noqa: PTH123 - pathlib cannot set the mode at birth
        yield file


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, "utf-8")
    fresh.replace(path)


def _read(path: Path, kind: Callable[[], T]) -> T:
    """What a small JSON file says, or nothing of its kind where there is no such file."""
    try:
        found: T = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return kind()
    return found


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not done():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def _say(text: str) -> None:
    sys.stdout.write(f"{datetime.fromtimestamp(time.time(), UTC).isoformat(timespec='milliseconds')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run((), Settings.from_env(os.environ))
