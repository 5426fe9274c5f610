"""Signs of life: heartbeats of processes and the health of partners, seen by every process."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, insert, select, text, update

from hub.store.tables import health, heartbeats


def beat(connection: Connection, at: int, process: str) -> None:
    """This process is alive."""
    # One statement: two processes of a name may beat for the first time at once.
    beaten = text(
        "INSERT INTO heartbeats (process, at) VALUES (:name, :at) ON CONFLICT (process) DO UPDATE SET at = :at"
    )
    connection.execute(beaten, {"name": process, "at": at})


def last_beat(connection: Connection, process: str) -> int:
    """When the process was last alive; 0 if never."""
    return int(connection.execute(select(heartbeats.c.at).where(heartbeats.c.process == process)).scalar() or 0)


def note_health(connection: Connection, at: int, partner: str, *, up: bool, code: str) -> None:
    """A partner answered or did not. ``since`` moves only when that changes."""
    row = connection.execute(select(health).where(health.c.partner == partner)).mappings().first()
    if row is None:
        connection.execute(insert(health).values(partner=partner, up=int(up), code=code, since=at, seen=at))
        return
    since = row["since"] if bool(row["up"]) == up else at
    connection.execute(
        update(health).where(health.c.partner == partner).values(up=int(up), code=code, since=since, seen=at)
    )


def partners(connection: Connection) -> list[RowMapping]:
    """The health of every partner that was ever called."""
    return list(connection.execute(select(health).order_by(health.c.partner)).mappings())
