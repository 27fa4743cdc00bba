"""What a folder has to take care of: rights, links, a full disk, lost power."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ghost.files.storage import disk
from ghost.files.storage.base import Missing, StorageUnavailable
from ghost.files.storage.disk import DiskStorage

KEY = "2026/11/some-id"


@pytest.fixture
def storage(tmp_path: Path) -> DiskStorage:
    return DiskStorage(tmp_path / "uploads")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def put(storage: DiskStorage, content: bytes = b"some bytes", key: str = KEY) -> None:
    with storage.create(key, "text/plain") as writer:
        writer.write(content)
        writer.commit()


def all_files(storage: DiskStorage) -> list[Path]:
    return [path for path in storage.root.rglob("*") if not path.is_dir()]


def test_a_file_lies_under_its_key(storage: DiskStorage) -> None:
    put(storage)

    assert all_files(storage) == [storage.root / KEY]


def test_only_the_owner_reads(storage: DiskStorage) -> None:
    put(storage)

    assert (storage.root / KEY).stat().st_mode & 0o777 == 0o600
    for folder in (storage.root, storage.root / "2026", storage.root / "2026/11"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_the_group_reads_where_it_is_to(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "uploads", is_group_readable=True)

    put(storage)

    assert (storage.root / KEY).stat().st_mode & 0o777 == 0o640
    assert (storage.root / "2026/11").stat().st_mode & 0o777 == 0o750


def test_an_open_file_is_one_of_the_disk(storage: DiskStorage) -> None:
    put(storage)

    with storage.open_local(KEY) as file:
        assert os.fstat(file.fileno()).st_size == 10
        assert file.read() == b"some bytes"


def test_a_link_in_place_of_a_file_is_not_followed(storage: DiskStorage, tmp_path: Path) -> None:
    put(storage)
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    (storage.root / "2026/11/link").symlink_to(secret)

    for use in (storage.read, storage.stat, storage.open_local):
        with pytest.raises(Missing):
            use("2026/11/link")
    assert [found.key for found in storage.list()] == [KEY]
    storage.delete(["2026/11/link"])
    assert secret.exists()


def test_a_link_in_place_of_a_folder_is_not_followed(storage: DiskStorage, tmp_path: Path) -> None:
    put(storage)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "12").mkdir(parents=True)
    (elsewhere / "12/theirs").write_text("of somebody else")
    (storage.root / "2027").symlink_to(elsewhere)

    with pytest.raises(Missing):
        storage.read("2027/12/theirs")
    storage.delete(["2027/12/theirs"])
    with pytest.raises(StorageUnavailable):
        put(storage, key="2027/12/mine")

    assert [found.key for found in storage.list()] == [KEY]
    assert [path.name for path in (elsewhere / "12").iterdir()] == ["theirs"]
    assert not list((storage.root / disk.DRAFTS).iterdir())


def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(storage: DiskStorage) -> None:
    put(storage)
    os.mkfifo(storage.root / "2026/11/pipe")

    with pytest.raises(Missing):
        storage.read("2026/11/pipe")


def test_a_full_disk_is_a_clear_error_and_nothing_stays(small_disk: Path) -> None:
    storage = DiskStorage(small_disk / "uploads")
    put(storage, bytes(512 * 1024), "2026/11/before")

    for _ in range(20):
        with pytest.raises(StorageUnavailable):
            put(storage, bytes(2**20))

    assert all_files(storage) == [storage.root / "2026/11/before"]
    put(storage, bytes(256 * 1024))


def test_a_disk_that_can_only_be_read_is_a_clear_error(small_disk: Path) -> None:
    storage = DiskStorage(small_disk / "uploads")
    put(storage)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(StorageUnavailable):
        put(storage, key="2026/11/other")
    with pytest.raises(StorageUnavailable):
        storage.delete([KEY])
    with pytest.raises(StorageUnavailable):
        storage.check()
    assert b"".join(storage.read(KEY)) == b"some bytes"


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EROFS])
def test_a_failing_disk_is_a_clear_error_and_nothing_stays(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    put(storage, key="2025/01/before")

    def fail(*_values: Any, **_named: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageUnavailable) as caught:
        put(storage)
    monkeypatch.undo()

    assert caught.value.status == 503
    assert str(storage.root) not in caught.value.message
    assert all_files(storage) == [storage.root / "2025/01/before"]


def test_a_name_that_may_not_last_is_taken_back(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, key="2026/11/before")  # so that no folder is made and synced
    sync, calls = os.fsync, []

    def fail_second(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fail_second)
    with pytest.raises(StorageUnavailable):
        put(storage)

    assert all_files(storage) == [storage.root / "2026/11/before"]


def test_the_file_is_synced_before_its_name_and_the_folder_after_it(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, key="2026/11/before")
    calls: list[int] = []  # what was synced, and 0 for the rename
    sync, rename = os.fsync, os.rename

    def note_sync(handle: int) -> None:
        calls.append(os.fstat(handle).st_ino)
        sync(handle)

    def note_rename(*values: Any, **named: Any) -> None:
        calls.append(0)
        rename(*values, **named)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    put(storage)

    place = storage.root / KEY
    assert calls == [place.stat().st_ino, 0, place.parent.stat().st_ino]


def test_a_short_write_goes_on(storage: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))

    put(storage)

    assert (storage.root / KEY).read_bytes() == b"some bytes"


def test_a_folder_that_vanishes_before_the_rename_is_made_again(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename
    attempts = []

    def rename_late(*values: Any, **named: Any) -> None:
        attempts.append(values)
        if len(attempts) == 1:
            (storage.root / "2026/11").rmdir()
        rename(*values, **named)

    monkeypatch.setattr(os, "rename", rename_late)
    put(storage)

    assert len(attempts) == 2
    assert storage.stat(KEY).size == 10


def test_a_folder_that_vanishes_while_it_is_made_is_made_again(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, key="2025/01/before")
    mkdir, made = os.mkdir, []

    def mkdir_and_lose(name: str, *values: Any, **named: Any) -> None:
        mkdir(name, *values, **named)
        made.append(name)
        if len(made) == 1:
            (storage.root / name).rmdir()

    monkeypatch.setattr(os, "mkdir", mkdir_and_lose)
    put(storage)

    assert made == ["2026", "2026", "11"]
    assert storage.stat(KEY).size == 10


def test_a_file_is_as_old_as_its_name_however_long_it_was_written(storage: DiskStorage) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some bytes")
        os.utime(writer.handle, (long_ago, long_ago))
        writer.commit()

    assert storage.stat(KEY).modified_at.year > 2020


def test_folders_of_deleted_files_go_as_well(storage: DiskStorage) -> None:
    put(storage, key="uploads/one/0")
    put(storage, key="uploads/two/0")

    storage.delete(["uploads/one/0"])

    assert [path.name for path in (storage.root / "uploads").iterdir()] == ["two"]


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(
    storage: DiskStorage,
) -> None:
    put(storage, bytes(2**20))
    pieces = storage.read(KEY)
    next(pieces)
    os.truncate(storage.root / KEY, 1000)

    with pytest.raises(StorageUnavailable):
        list(pieces)


def test_drafts_of_killed_writers_are_swept_and_others_stay(storage: DiskStorage) -> None:
    drafts = storage.root / disk.DRAFTS
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some")
        old = drafts / "killed"
        old.write_bytes(b"left behind")
        yesterday = (datetime.now(UTC) - timedelta(days=1)).timestamp()
        os.utime(old, (yesterday, yesterday))

        count = storage.tidy(datetime.now(UTC) - timedelta(hours=1))

        writer.commit()
    assert count == 1
    assert all_files(storage) == [storage.root / KEY]


def test_a_draft_can_be_read_before_the_commit(storage: DiskStorage) -> None:
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some")

        assert writer.path is not None
        assert writer.path.read_bytes() == b"some"


def test_drafts_are_no_files(storage: DiskStorage) -> None:
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some")

        assert list(storage.list()) == []


def test_a_nearly_full_disk_is_told(storage: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    room = SimpleNamespace(total=100 * 2**30, free=3 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: room)

    assert storage.check() == "The disk is nearly full: 3072 MiB are free."


def test_there_is_no_address_of_a_file_on_disk(storage: DiskStorage) -> None:
    put(storage)

    assert storage.signed_url(KEY, 60, {}) is None
