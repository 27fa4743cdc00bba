"""What is left behind goes: deleted files, bytes without a row; and what is missing is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from stored_files import FileFactory, Upload, path_of

from ghost import db, db_manager, utcnow, uuid7
from ghost.files import jobs as file_jobs
from ghost.files import sweep
from ghost.files.models import FileUsage, StoredFile
from ghost.files.models import Upload as UploadRow
from ghost.files.storage import current_storage
from ghost.jobs.ledger import ledger
from ghost.testing.background import Jobs
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

FILES = "/api/v1/files"
DAY = timedelta(days=1)
Keys = Callable[[], list[str]]


@pytest.fixture
def ada(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


def usage() -> int:
    with db_manager.connection() as connection:
        return connection.scalar(sa.select(sa.func.sum(FileUsage.__table__.c.bytes))) or 0


def put(key: str, *, hours_ago: float = 0) -> None:
    """Lay bytes into the storage that no row names."""
    storage = current_storage()
    with storage.create(key, "text/plain") as writer:
        writer.write(b"Hello")
        writer.commit()
    then = time.time() - 3600 * hours_ago
    path = path_of(key)
    os.utime(path, (then, then))


def test_a_deleted_file_is_purged_when_its_time_is_over_and_its_room_given_back(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    kept, deleted = (upload(ada, content).json["data"] for content in (b"123", b"12345"))
    ada.delete(f"{FILES}/{deleted['id']}")

    with app.app_context():
        assert sweep.purge_deleted(utcnow() + DAY - timedelta(minutes=1)) == 0
        assert usage() == 8
        assert sweep.purge_deleted(utcnow() + DAY) == 1
        assert sweep.purge_deleted(utcnow() + DAY) == 0
        assert usage() == 3

    (key,) = stored_keys()
    assert key.endswith(kept["id"])


def test_bytes_that_no_row_names_are_deleted_once_they_are_old(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    upload(ada)
    (kept,) = stored_keys()
    old, young = f"2026/11/{uuid7()}", f"2026/11/{uuid7()}"

    with app.app_context():
        put(old, hours_ago=2)
        put(young, hours_ago=0.5)
        portion = sweep.sweep_portion(utcnow())

    assert (portion.seen, portion.orphans, portion.missing) == (3, 1, ())
    assert sorted(stored_keys()) == sorted([kept, young])


def test_what_somebody_else_keeps_there_is_left_alone(app: Flask, stored_keys: Keys) -> None:
    theirs = ["2026/11/report.pdf", "backup/2026.tar", "notes.txt", f"a/{uuid7()}"]

    with app.app_context():
        for key in theirs:
            put(key, hours_ago=100)
        assert sweep.sweep_portion(utcnow()).orphans == 0

    assert stored_keys() == sorted(theirs)


def test_the_pieces_of_an_upload_stay_as_long_as_its_row(app: Flask, stored_keys: Keys) -> None:
    with app.app_context():
        row = UploadRow(
            owner_id=uuid7(), length=9, filename="a.txt", details={}, expires_at=utcnow()
        )
        db.session.add(row)
        db.session.commit()
        put(f"uploads/{row.id}/0", hours_ago=9)
        put(f"uploads/{uuid7()}/0", hours_ago=9)

        assert sweep.sweep_portion(utcnow()).orphans == 1

    assert stored_keys() == [f"uploads/{row.id}/0"]


def test_a_file_whose_bytes_are_gone_is_told_of_and_stays(
    app: Flask, make_file: FileFactory
) -> None:
    lost, young = make_file(created_at=utcnow() - DAY), make_file()
    make_file(created_at=utcnow() - DAY)

    with app.app_context():
        current_storage().delete([lost.key, young.key])
        portion = sweep.sweep_portion(utcnow())

        assert portion.missing == (lost.id,)
        assert db.session.get(StoredFile, lost.id) is not None


def test_portions_join_without_a_gap(
    app: Flask, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    files = [make_file(created_at=utcnow() - DAY) for _ in range(7)]
    after: str | None = ""
    portions = []

    with app.app_context():
        current_storage().delete([files[number].key for number in (0, 3, 6)])
        put("2026/10/" + str(uuid7()), hours_ago=2)
        put("2026/12/" + str(uuid7()), hours_ago=2)
        while after is not None:
            portions.append(sweep.sweep_portion(utcnow(), after))
            after = portions[-1].last

    missing = {file_id for portion in portions for file_id in portion.missing}
    assert missing == {files[number].id for number in (0, 3, 6)}
    assert sum(portion.orphans for portion in portions) == 2


def test_a_file_that_is_purged_while_the_storage_is_swept_is_not_lost(
    app: Flask, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    purged, lost = (make_file(created_at=utcnow() - DAY) for _ in range(2))
    named = sweep._named

    def purge_meanwhile(*stretch: Any) -> Any:
        rows = named(*stretch)
        with db_manager.transaction() as connection:
            connection.execute(sa.delete(StoredFile).where(StoredFile.id == purged.id))
        return rows

    monkeypatch.setattr(sweep, "_named", purge_meanwhile)
    with app.app_context():
        current_storage().delete([purged.key, lost.key])

        assert sweep.sweep_portion(utcnow()).missing == (lost.id,)


def test_an_empty_storage_is_held_against_few_rows_at_a_time(
    app: Flask, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was not mounted, say."""
    monkeypatch.setattr(sweep, "BATCH", 3)
    files = [make_file(created_at=utcnow() - DAY) for _ in range(8)]
    statements: list[str] = []
    with app.app_context():
        current_storage().delete([file.key for file in files])
        sa.event.listen(
            db.engine, "before_cursor_execute", lambda *values: statements.append(values[2])
        )
        portions = [sweep.sweep_portion(utcnow())]
        while portions[-1].last is not None:
            portions.append(sweep.sweep_portion(utcnow(), portions[-1].last))

    assert [len(portion.missing) for portion in portions] == [3, 3, 2]
    assert len(statements) <= 3 * 5


@pytest.mark.only_on("postgresql")
def test_rows_are_found_in_the_order_of_the_storage_by_an_index(app: Flask) -> None:
    with app.app_context():
        plan = "EXPLAIN SELECT id FROM files WHERE key > 'a' ORDER BY key LIMIT 500"
        db.session.execute(
            sa.text("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        )
        lines = db.session.scalars(sa.text(plan)).all()

    assert any("uq_files_key" in line for line in lines), lines
    assert not any("Sort" in line for line in lines)


def test_the_storage_of_another_database_is_not_swept(
    app: Flask, jobs: Jobs, make_file: FileFactory, stored_keys: Keys
) -> None:
    make_file()
    orphan = f"2026/11/{uuid7()}"
    with app.app_context():
        put(orphan, hours_ago=2)
        current_storage().claim("somebody-else")
    begin(app, utcnow())

    jobs.run_all()

    assert orphan in stored_keys()


def test_a_place_is_swept_again_and_again_by_its_database(app: Flask) -> None:
    with app.app_context():
        sweep.check_place()
        sweep.check_place()


def test_temporary_files_of_killed_writers_are_removed(app: Flask) -> None:
    with app.app_context():
        with current_storage().create("2026/11/a", "text/plain") as writer:
            assert writer.path is not None
            copy = writer.path.with_name(str(uuid7()))
            os.link(writer.path, copy)
        assert sweep.remove_temporary(utcnow()) == 0
        assert sweep.remove_temporary(utcnow() + 2 * sweep.TEMPORARY_AGE) == 1
        assert not Path(copy).exists()


def begin(app: Flask, now: Any) -> None:
    """What the sweep of the jobs calls once a minute."""
    with app.app_context(), ledger() as connection:
        file_jobs._begin(connection, now, 100)


def test_the_storage_is_swept_once_an_hour_by_one_worker(
    app: Flask, jobs: Jobs, make_file: FileFactory
) -> None:
    begin(app, utcnow())
    assert jobs.names() == []  # there is no file

    make_file()
    now = utcnow()
    begin(app, now)
    begin(app, now)
    assert jobs.names() == ["files.sweep"]
    jobs.run_all()
    begin(app, now + timedelta(minutes=59))
    assert jobs.names() == []
    begin(app, now + timedelta(minutes=61))
    assert jobs.names() == ["files.sweep"]


def test_deleted_files_are_purged_by_a_job(
    app: Flask, jobs: Jobs, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    path = f"{FILES}/{upload(ada).json['data']['id']}"
    ada.delete(path)
    begin(app, utcnow())
    assert "files.purge" not in jobs.names()

    with app.app_context():
        then = {"deleted_at": utcnow() - 2 * DAY}
        db.session.execute(sa.update(StoredFile).values(then))
        db.session.commit()
    begin(app, utcnow())
    assert "files.purge" in jobs.names()
    jobs.run_all()

    assert stored_keys() == []
    with app.app_context():
        assert usage() == 0
