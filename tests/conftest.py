"""Services that tests need: where they are missing, one loud line at the end says so, or the run fails (REQUIRE_SERVICES=1)."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import pytest

SERVICES = {
    "postgres": ("PostgreSQL", "DUKOU_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test", 5432),
    "mariadb": ("MariaDB", "DUKOU_TEST_MARIADB_URL", "mariadb://root@127.0.0.1:3306/test", 3306),
    "amqp": ("RabbitMQ", "DUKOU_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//", 5672),
}
_missing = pytest.StashKey[dict[str, int]]()


def _answers(mark: str) -> bool:
    _, variable, default, port = SERVICES[mark]
    url = urlsplit(os.environ.get(variable, default))
    try:
        socket.create_connection((url.hostname or "127.0.0.1", url.port or port), timeout=2).close()
    except OSError:
        return False
    return True


def pytest_configure(config: pytest.Config) -> None:
    """Markers that pyproject.toml does not know yet."""
    config.addinivalue_line("markers", "mariadb: needs MariaDB (DUKOU_TEST_MARIADB_URL)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests of a service that does not answer, and count them."""
    config.stash[_missing] = {}
    for mark, (name, variable, _, _) in SERVICES.items():
        needing = [item for item in items if item.get_closest_marker(mark)]
        if needing and not _answers(mark):
            config.stash[_missing][name] = len(needing)
            for item in needing:
                item.add_marker(pytest.mark.skip(reason=f"{name} does not answer ({variable})"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With REQUIRE_SERVICES=1 a missing service is a failure."""
    required = os.environ.get("REQUIRE_SERVICES") == "1"
    if session.config.stash.get(_missing, {}) and required and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line that nobody overlooks."""
    missing = config.stash.get(_missing, {})
    if missing:
        said = ", ".join(f"{name} ({count} tests / 项测试)" for name, count in missing.items())
        terminalreporter.write_line("")
        terminalreporter.write_line(
            f"!!! NOT TESTED, no answer from / 未测试，服务无应答: {said} !!!", red=True, bold=True
        )


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """Where PostgreSQL is (only for tests marked ``postgres``)."""
    return os.environ.get(SERVICES["postgres"][1], SERVICES["postgres"][2])


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """Where RabbitMQ is (only for tests marked ``amqp``)."""
    return os.environ.get(SERVICES["amqp"][1], SERVICES["amqp"][2])


@pytest.fixture(scope="session")
def mariadb_url() -> str:
    """Where MariaDB is (only for tests marked ``mariadb``)."""
    return os.environ.get(SERVICES["mariadb"][1], SERVICES["mariadb"][2])
