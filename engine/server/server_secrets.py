"""Secrets that the servers of one job database share: made by the first that needs one."""

from collections.abc import Callable

from sqlalchemy import Column, Connection, MetaData, String, Table, Text, func, insert, select

from ..fal.database import Database

_metadata = MetaData()
_secrets = Table(
    "lightfill_secrets",
    _metadata,
    Column("name", String, primary_key=True),
    Column("content", Text, nullable=False),
)


def secret(database: Database, name: str, make: Callable[[], str]) -> str:
    """The secret called `name`; what `make` returns if there is none, stored before it is used.

    Servers that ask together get the same one. Raises DatabaseUnavailable.
    """

    def operation(connection: Connection) -> str:
        if connection.dialect.name == "postgresql":  # SQLite's writers exclude each other
            connection.execute(select(func.pg_advisory_xact_lock(0x6C66_7365_6372)))
        _metadata.create_all(connection)
        found = connection.scalar(select(_secrets.c.content).where(_secrets.c.name == name))
        if found is None:
            found = make()
            connection.execute(insert(_secrets).values(name=name, content=found))
        return found

    return database.write(operation)
