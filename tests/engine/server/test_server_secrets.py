"""Secrets in the job database: one of each name, whoever asks first."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

from lightfill.engine.fal.database import Database
from lightfill.engine.server.server_secrets import secret


def test_it_is_made_once_and_kept(database_url: str) -> None:
    for made in ("first", "second"):
        database = Database(database_url)
        assert secret(database, "a", lambda made=made: made) == "first"  # type: ignore[misc]
        assert secret(database, "b", lambda: "other") == "other"
        database.close()


def test_servers_that_ask_together_get_the_same(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(6)]
    numbers = count()
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda d: secret(d, "a", lambda: str(next(numbers))), databases))
    assert len(set(found)) == 1
    for database in databases:
        database.close()
