"""What every storage does, whatever it is."""

from __future__ import annotations

import gc
import warnings
from datetime import UTC, datetime, timedelta

import pytest

from ghost.files.storage.base import PIECE_BYTES, Missing, Storage, StorageUnavailable

KEY = "2026/11/0197f1f0-0000-7000-8000-000000000001"


def put(storage: Storage, key: str = KEY, content: bytes = b"some bytes") -> None:
    with storage.create(key, "text/plain") as writer:
        writer.write(content)
        writer.commit()


def read(storage: Storage, key: str = KEY, start: int = 0, length: int | None = None) -> bytes:
    return b"".join(storage.read(key, start, length))


def keys(storage: Storage, prefix: str = "", after: str = "") -> list[str]:
    return [found.key for found in storage.list(prefix, after)]


def test_what_was_written_is_read_back(storage: Storage) -> None:
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some ")
        writer.write(bytearray(b"more "))
        writer.write(memoryview(b"bytes"))
        writer.commit()

    assert read(storage) == b"some more bytes"


def test_an_empty_file_is_a_file(storage: Storage) -> None:
    put(storage, content=b"")

    assert read(storage) == b""
    assert storage.stat(KEY).size == 0


def test_a_file_is_read_in_pieces(storage: Storage) -> None:
    content = bytes(range(256)) * 4096
    put(storage, content=content)

    pieces = list(storage.read(KEY))

    assert b"".join(pieces) == content
    assert len(pieces) > 2
    assert max(map(len, pieces)) <= 4 * PIECE_BYTES


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (0, 10, b"0123456789"),
        (9, 1, b"9"),
        (4, 0, b""),
    ],
)
def test_a_part_of_a_file_is_read(
    storage: Storage, start: int, length: int | None, expected: bytes
) -> None:
    put(storage, content=b"0123456789")

    assert read(storage, KEY, start, length) == expected


def test_a_file_that_is_shorter_than_it_should_be_ends_with_an_error(storage: Storage) -> None:
    put(storage, content=b"0123456789")

    for start, length in ((5, 6), (10, 1), (10, None), (20, None)):
        with pytest.raises(StorageUnavailable):
            read(storage, KEY, start, length)


def test_a_read_that_nobody_wants_any_more_holds_nothing(storage: Storage) -> None:
    put(storage, content=bytes(3 * PIECE_BYTES))

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        storage.read(KEY).close()
        pieces = storage.read(KEY)
        next(pieces)
        pieces.close()
        gc.collect()


def test_nothing_is_under_a_key_before_the_commit(storage: Storage) -> None:
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some bytes")
        with pytest.raises(Missing):
            storage.stat(KEY)
        writer.commit()

    assert storage.stat(KEY).size == 10


def test_a_writer_without_a_commit_leaves_nothing_behind(storage: Storage) -> None:
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some bytes")

    with pytest.raises(Missing):
        storage.read(KEY)
    assert keys(storage) == []
    assert storage.tidy(datetime.now(UTC) + timedelta(hours=1)) == 0


def test_an_error_of_the_writer_passes_through_and_leaves_nothing_behind(storage: Storage) -> None:
    def write() -> None:
        with storage.create(KEY, "text/plain") as writer:
            writer.write(bytes(6 * 2**20))
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        write()

    assert keys(storage) == []
    assert storage.tidy(datetime.now(UTC) + timedelta(hours=1)) == 0


def test_size_and_age_are_told(storage: Storage) -> None:
    before = datetime.now(UTC)
    put(storage)

    found = storage.stat(KEY)

    assert (found.key, found.size) == (KEY, 10)
    assert abs(found.modified_at - before) < timedelta(seconds=5)


def test_where_nothing_is_reading_and_asking_say_so(storage: Storage) -> None:
    put(storage)

    for key in ("2026/11/other", "2025/01/other", "2026", "2026/11", f"{KEY}/below"):
        with pytest.raises(Missing):
            storage.read(key)
        with pytest.raises(Missing):
            storage.read(key, 5, 5)
        with pytest.raises(Missing):
            storage.stat(key)


def test_deleted_files_are_gone_and_others_are_not(storage: Storage) -> None:
    for name in "abc":
        put(storage, f"2026/11/{name}")

    storage.delete(["2026/11/a", "2026/11/c", "2026/11/never-there", "1999/01/nor-this"])

    assert keys(storage) == ["2026/11/b"]


def test_a_folder_whose_last_file_was_deleted_takes_new_ones(storage: Storage) -> None:
    put(storage)
    storage.delete([KEY])

    put(storage)

    assert keys(storage) == [KEY]


def test_deleting_nothing_is_no_mistake(storage: Storage) -> None:
    storage.delete([])
    storage.delete([KEY])


def test_files_are_listed_in_the_order_of_their_keys(storage: Storage) -> None:
    names = ["2025/12/z", "2026-a", "2026/02/b", "2026/02/c", "2026/02-x", "2026/11/a", "a", "B"]
    for name in names:
        put(storage, name)

    assert keys(storage) == sorted(names)


@pytest.mark.parametrize(
    ("prefix", "after", "expected"),
    [
        ("2026/", "", ["2026/02/b", "2026/02/c", "2026/11/a"]),
        ("2026/0", "", ["2026/02/b", "2026/02/c"]),
        ("2026/02/c", "", ["2026/02/c"]),
        ("2024/", "", []),
        ("", "2026/02/b", ["2026/02/c", "2026/11/a"]),
        ("", "2026/02/bb", ["2026/02/c", "2026/11/a"]),
        ("2026/02/", "2026/02/b", ["2026/02/c"]),
        ("2025/", "2026", []),
    ],
)
def test_a_list_begins_where_it_is_told_to(
    storage: Storage, prefix: str, after: str, expected: list[str]
) -> None:
    for name in ("2025/12/z", "2026/02/b", "2026/02/c", "2026/11/a"):
        put(storage, name)

    assert keys(storage, prefix, after) == expected


def test_a_list_tells_size_and_age(storage: Storage) -> None:
    put(storage)

    (found,) = storage.list()

    assert found.size == 10
    assert abs(found.modified_at - datetime.now(UTC)) < timedelta(seconds=5)


def test_an_empty_storage_lists_nothing(storage: Storage) -> None:
    assert keys(storage) == []
    assert keys(storage, "2026/") == []


def test_a_working_storage_has_nothing_to_say(storage: Storage) -> None:
    assert storage.check() is None
    assert keys(storage) == []


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "2026/../up", "2026//x", "2026/", ".tmp/x", "2026/.x", "a\0b",
     "a\n", "ä", "a b", "a" * 201],
)  # fmt: skip
def test_what_is_no_key_is_refused(storage: Storage, key: str) -> None:
    for use in (
        lambda: storage.create(key, "text/plain").__enter__(),
        lambda: storage.read(key),
        lambda: storage.stat(key),
        lambda: storage.delete([key]),
        lambda: storage.open_local(key),
        lambda: storage.signed_url(key, 60, {}),
    ):
        with pytest.raises(ValueError, match="is no key"):
            use()


def test_a_place_belongs_to_who_claims_it_first(storage: Storage) -> None:
    assert storage.claim("one") == "one"
    assert storage.claim("another") == "one"
    assert storage.claim("one") == "one"
    assert list(storage.list()) == []
