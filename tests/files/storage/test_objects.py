"""What a bucket has to take care of: parts, addresses, a server that hangs or is killed."""

from __future__ import annotations

import multiprocessing
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from loguru import logger
from object_stores import BUCKET, LISTED_AT_ONCE, Moto, SlowLine

from ghost.config_storage import BucketPlace
from ghost.files.storage import objects, opening
from ghost.files.storage.base import Missing, StorageUnavailable
from ghost.files.storage.objects import PART_BYTES, ObjectStorage, open_bucket
from ghost.testing.servers import free_port

KEY = "2026/11/some-id"
TIMEOUT = 2.0
HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Disposition": "attachment; filename=\"a b.txt\"; filename*=UTF-8''%E2%82%AC%25.txt",
    "Cache-Control": "private, no-cache",
}


@pytest.fixture
def prefix() -> str:
    return f"of-a-test/{uuid4().hex}"


@pytest.fixture
def storage(moto: Moto, prefix: str) -> ObjectStorage:
    return open_bucket(moto.make_place(prefix), TIMEOUT, TIMEOUT)


@pytest.fixture
def paused(moto: Moto) -> Iterator[None]:
    """The server hangs; after the test it goes on."""
    moto.pause()
    yield
    moto.resume()


def put(storage: ObjectStorage, content: bytes = b"some bytes", key: str = KEY) -> None:
    with storage.create(key, "text/plain") as writer:
        writer.write(content)
        writer.commit()


def test_a_file_lies_under_the_prefix_with_its_type(
    storage: ObjectStorage, moto: Moto, prefix: str
) -> None:
    put(storage)

    found = moto.client.head_object(Bucket=BUCKET, Key=f"{prefix}/{KEY}")

    assert found["ContentLength"] == 10
    assert found["ContentType"] == "text/plain"


def test_without_a_prefix_a_file_lies_under_its_key(moto: Moto) -> None:
    storage = open_bucket(moto.make_place(""), TIMEOUT)
    put(storage, key="2020/01/alone")

    assert moto.client.head_object(Bucket=BUCKET, Key="2020/01/alone")["ContentLength"] == 10
    assert "2020/01/alone" in [found.key for found in storage.list("2020/")]


def test_a_large_file_is_sent_in_parts(storage: ObjectStorage, moto: Moto, prefix: str) -> None:
    content = bytes(range(256)) * 4096 * 13  # 13 MiB
    with storage.create(KEY, "text/plain") as writer:
        for start in range(0, len(content), 100_000):
            writer.write(content[start : start + 100_000])
        writer.commit()

    assert b"".join(storage.read(KEY)) == content
    assert b"".join(storage.read(KEY, 6_000_000, 5_000_000)) == content[6_000_000:11_000_000]
    etag = moto.client.head_object(Bucket=BUCKET, Key=f"{prefix}/{KEY}")["ETag"]
    assert etag.endswith('-3"')
    assert moto.unfinished(prefix) == []


def test_parts_of_a_file_that_is_given_up_are_deleted(
    storage: ObjectStorage, moto: Moto, prefix: str
) -> None:
    with storage.create(KEY, "text/plain") as writer:
        writer.write(bytes(3 * PART_BYTES))
        assert len(moto.unfinished(prefix)) == 1

    assert moto.unfinished(prefix) == []
    with pytest.raises(Missing):
        storage.stat(KEY)


def test_a_list_goes_on_where_one_answer_ends(
    storage: ObjectStorage, moto: Moto, prefix: str
) -> None:
    names = [f"2026/11/{number:04}" for number in range(3 * LISTED_AT_ONCE + 1)]
    for name in names:
        moto.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"")

    assert [found.key for found in storage.list("2026/")] == names


def test_objects_of_other_names_are_not_listed(
    storage: ObjectStorage, moto: Moto, prefix: str
) -> None:
    put(storage)
    for name in (".tmp/probe", "2026/11/with a blank", ".hidden"):
        moto.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"x")

    assert [found.key for found in storage.list()] == [KEY]


def test_a_signed_address_gives_the_bytes_with_the_headers_that_it_names(
    storage: ObjectStorage,
) -> None:
    put(storage)

    url = storage.signed_url(KEY, 60, HEADERS)

    assert url is not None
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"some bytes"
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_a_signed_address_is_what_botocore_makes(
    storage: ObjectStorage, moto: Moto, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto checks no signatures, and Amazon can't be asked; Amazon's own library can."""
    url = storage.signed_url(KEY, 60, HEADERS)
    assert url is not None
    moment = dict(word.split("=") for word in url.partition("?")[2].split("&"))["X-Amz-Date"]
    at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: at.replace(tzinfo=None))
    parameters = {"Bucket": BUCKET, "Key": f"{prefix}/{KEY}"} | {
        f"Response{name.replace('-', '')}": value for name, value in HEADERS.items()
    }

    theirs = moto.make_client(signature_version="s3v4").generate_presigned_url(
        "get_object", parameters, ExpiresIn=60
    )

    assert _query(url) == _query(theirs)


def _query(url: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in url.partition("?")[2].split("&"))  # type: ignore[misc]


def test_without_a_secret_there_is_no_address(storage: ObjectStorage) -> None:
    put(storage)

    assert ObjectStorage(storage._store, storage._store).signed_url(KEY, 60, HEADERS) is None


def test_a_bucket_that_is_not_there_is_no_missing_file(moto: Moto) -> None:
    storage = open_bucket(moto.make_place("", bucket="no-such-bucket"), TIMEOUT)

    for use in (
        lambda: storage.read(KEY),
        lambda: put(storage),
        lambda: list(storage.list()),
        storage.check,
    ):
        with pytest.raises(StorageUnavailable):
            use()


@pytest.mark.slow
def test_a_slow_line_is_no_server_that_hangs(moto: Moto, prefix: str) -> None:
    content = bytes(3 * PART_BYTES)
    with SlowLine(moto.port) as line:
        place = replace(moto.make_place(prefix), endpoint=line.url)
        put(open_bucket(place, timeout=0.6), content)

    assert open_bucket(moto.make_place(prefix), TIMEOUT).stat(KEY).size == len(content)


def test_where_nothing_can_be_deleted_a_check_leaves_one_probe_and_no_more(
    storage: ObjectStorage, moto: Moto, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_store: object, path: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(objects.obstore, "delete", refuse)
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            storage.check()

    found = moto.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    assert [each["Key"] for each in found["Contents"]] == [f"{prefix}/.tmp/probe"]


@pytest.mark.slow
def test_a_failure_is_logged_once() -> None:
    place = BucketPlace("s3", BUCKET, "away", "key", "secret", f"http://127.0.0.1:{free_port()}")
    lines: list[str] = []
    sink = logger.add(lines.append)
    try:
        with pytest.raises(StorageUnavailable):
            put(open_bucket(place, TIMEOUT), bytes(2 * PART_BYTES))
    finally:
        logger.remove(sink)

    assert len(lines) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize(
    "use",
    [
        lambda storage: storage.read(KEY),
        lambda storage: storage.read(KEY, 2, 3),
        lambda storage: storage.stat(KEY),
        lambda storage: put(storage),
        lambda storage: put(storage, bytes(3 * PART_BYTES)),
        lambda storage: storage.delete([KEY]),
        lambda storage: list(storage.list()),
        lambda storage: storage.check(),
    ],
    ids=["read", "read a part", "stat", "put", "put in parts", "delete", "list", "check"],
)
def test_a_server_that_hangs_is_given_up_in_time(moto: Moto, use: object) -> None:
    place = BucketPlace("s3", BUCKET, "hanging", "key", "secret", moto.url)
    storage = open_bucket(place, TIMEOUT, TIMEOUT)
    started = time.monotonic()

    with pytest.raises(StorageUnavailable):
        use(storage)  # type: ignore[operator]

    # Giving up the parts of a file waits as long again.
    assert time.monotonic() - started < 2 * TIMEOUT + 1


@pytest.mark.slow
def test_a_server_that_hangs_in_the_middle_is_given_up_in_time(
    storage: ObjectStorage, moto: Moto
) -> None:
    put(storage, bytes(40 * 2**20))
    pieces = storage.read(KEY)
    moto.pause()
    started = time.monotonic()

    try:
        with pytest.raises(StorageUnavailable):
            list(pieces)
    finally:
        moto.resume()

    assert time.monotonic() - started < TIMEOUT + 1


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_is_written_to_is_a_clear_error() -> None:
    moto = Moto()
    try:
        storage = open_bucket(moto.make_place("killed"), TIMEOUT, TIMEOUT)
        with pytest.raises(StorageUnavailable), storage.create(KEY, "text/plain") as writer:  # noqa: PT012
            writer.write(bytes(2 * PART_BYTES))
            moto.kill()
            started = time.monotonic()
            for _ in range(4):
                writer.write(bytes(PART_BYTES))
            writer.commit()
        assert time.monotonic() - started < 2 * TIMEOUT + 1

        with pytest.raises(StorageUnavailable):
            storage.stat(KEY)
        moto.start()  # it has forgotten everything
        moto.make_place("killed")
        put(storage)
        assert storage.stat(KEY).size == 10
    finally:
        moto.close()


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_is_read_is_a_clear_error() -> None:
    moto = Moto()
    try:
        storage = open_bucket(moto.make_place("killed"), TIMEOUT, TIMEOUT)
        put(storage, bytes(40 * 2**20))
        pieces = storage.read(KEY)
        moto.kill()

        with pytest.raises(StorageUnavailable):
            list(pieces)
    finally:
        moto.close()


def _use_after_a_fork(storage: ObjectStorage, results: multiprocessing.Queue[str]) -> None:
    try:
        storage.stat(KEY)
    except StorageUnavailable:
        results.put("refused")


@pytest.mark.skipif(sys.platform == "darwin", reason="forks are not to be had there")
def test_a_process_that_was_forked_after_the_first_use_does_not_hang(
    storage: ObjectStorage,
) -> None:
    put(storage)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_use_after_a_fork, args=(storage, results))

    child.start()
    child.join(10)

    assert child.exitcode == 0
    assert results.get(timeout=5) == "refused"


def test_settings_that_make_no_sense_to_the_service_are_a_clear_error_without_the_secret() -> None:
    place = BucketPlace("az", "container", key="account", secret="no base64 !")
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message} {extra}")

    with pytest.raises(StorageUnavailable):
        open_bucket(place, TIMEOUT)

    logger.remove(sink)
    assert "Invalid Access Key" in lines[0]
    assert "no base64 !" not in lines[0]


def test_a_bucket_without_obstore_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(opening, "import_module", fail)

    with pytest.raises(StorageUnavailable):
        opening._open_bucket(BucketPlace("s3", BUCKET), TIMEOUT)
