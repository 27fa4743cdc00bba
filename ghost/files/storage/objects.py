"""Files in a bucket of S3, Azure Blob or Google Cloud Storage, through obstore.

Loaded only where files lie there: obstore comes with the extra `cloud`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
from loguru import logger
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from ghost.config_storage import BucketPlace
from ghost.files.storage.base import (
    MARK,
    MAX_MARK_BYTES,
    PIECE_BYTES,
    Missing,
    StorageUnavailable,
    StoredObject,
    begun,
    check_key,
    is_key,
)
from ghost.files.storage.signed_urls import add_headers_for_azure, add_headers_for_s3

if TYPE_CHECKING:
    from obstore import GetOptions

# A file is sent in parts of this size, two at a time: 15 MiB in memory for each that is written.
# S3 takes no smaller ones, and 10,000 of them: 48 GiB.
PART_BYTES = 5 * 2**20
PARTS_AT_ONCE = 2
LISTED_AT_ONCE = 1000
RETRIES = 2
# A part has to leave within this, also on a slow line: for obstore the wait for an answer begins
# when it begins to send, and half of `storage.timeout` would ask for a megabyte in each second.
SENDING_SECONDS = 60.0
# Always the same: where it can't be deleted, there is one of it.
PROBE = ".tmp/probe"
# obstore ends a whole download after 30 seconds, else; what counts is the wait for the next bytes.
WHOLE_REQUEST = timedelta(days=1)
Store = S3Store | AzureStore | GCSStore
AddHeaders = Callable[[str, Mapping[str, str]], str]

# In an answer of 404, these say that it is not the file that is missing.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")


class ObjectStorage:
    """Files in a bucket.

    obstore works in threads that a fork leaves behind: a process that was forked after the first
    use would wait for ever, and is refused instead.

    :param store: one of obstore's.
    :param sending_store: the same place, for what takes longer to send.
    :param add_headers: puts headers into an address that obstore has signed; None where whatever
        that needs is not known.
    """

    _process: int | None = None

    def __init__(
        self, store: Store, sending_store: Store, add_headers: AddHeaders | None = None
    ) -> None:
        self._store, self._sending_store = store, sending_store
        self._add_headers = add_headers

    @contextmanager
    def create(self, key: str, content_type: str) -> Iterator[ObjectWriter]:
        """Begin a file. See `Storage.create`.

        What was sent of an unfinished one is deleted. If that fails too, or the process is killed,
        it stays in the bucket unseen until the bucket's own rule for unfinished uploads removes it.
        """
        check_key(key)
        with self._calling(key):
            file = obstore.open_writer(
                self._sending_store,
                key,
                attributes={"Content-Type": content_type},
                buffer_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        writer = ObjectWriter(self, key, file)
        try:
            yield writer
        finally:
            if not writer.is_committed:
                writer.abort()

    def read(
        self, key: str, start: int = 0, length: int | None = None
    ) -> Generator[bytes, None, None]:
        """Give the bytes from `start` in pieces. See `Storage.read`."""
        return begun(self._read(check_key(key), start, length))

    def _read(self, key: str, start: int, length: int | None) -> Generator[bytes, None, None]:
        if length == 0:  # stores know no range of nothing
            self.stat(key)
            yield b""
            return
        options: GetOptions = {}
        if length is not None:
            options = {"range": (start, start + length)}
        elif start:
            options = {"range": {"offset": start}}
        with self._finding(key):
            found = obstore.get(self._store, key, options=options)
            if length is not None and found.range[1] != start + length:
                logger.bind(key=key, range=found.range).error("a file is shorter than it should be")
                raise StorageUnavailable
            pieces = iter(found.stream(PIECE_BYTES))
            piece = next(pieces, b"")
            yield b""
            while piece:
                yield piece
                piece = next(pieces, b"")

    def stat(self, key: str) -> StoredObject:
        """Tell size and age. See `Storage.stat`."""
        check_key(key)
        with self._finding(key):
            return _describe(obstore.head(self._store, key))

    def delete(self, keys: Collection[str]) -> None:
        """Delete many with few requests. See `Storage.delete`."""
        if not keys:
            return
        paths = [check_key(key) for key in keys]
        with self._calling(paths[0]):
            try:
                obstore.delete(self._store, paths)
            except FileNotFoundError:
                # Azure and Google say so of the first one, and perhaps leave out the others.
                for path in paths:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store, path)

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Go through files in the order of their keys. See `Storage.list`.

        Objects of other names, which are none of ours, are left out.
        """
        # obstore takes whole folders only; all three services list in the order of the names.
        folder, _, _ = prefix.rpartition("/")
        with self._calling(prefix):
            for some in obstore.list(
                self._store, folder or None, offset=after or None, chunk_size=LISTED_AT_ONCE
            ):
                for found in some:
                    key = found["path"]
                    if key.startswith(prefix) and key > after and is_key(key):
                        yield _describe(found)
                    elif key > prefix and not key.startswith(prefix):
                        return

    def tidy(self, before: datetime) -> int:
        """Nothing: a store's own rules remove unfinished uploads. See `Storage.tidy`."""
        return 0

    def open_local(self, key: str) -> None:
        """A store's files lie elsewhere. See `Storage.open_local`."""
        check_key(key)

    def signed_url(self, key: str, seconds: int, headers: Mapping[str, str]) -> str | None:
        """Make an address at the store. See `Storage.signed_url`.

        Only where we have a key and its secret ourselves: the store has to be told the type, the
        name and how to treat it, and obstore's addresses can't.
        """
        check_key(key)
        if self._add_headers is None:
            return None
        with self._calling(key):
            url: str = obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))
        return self._add_headers(url, headers)

    def claim(self, holder: str) -> str:
        """Write a hidden object, once. See `Storage.claim`."""
        with self._calling(MARK):
            try:
                found = obstore.get(self._store, MARK).bytes()
            except FileNotFoundError:
                with suppress(AlreadyExistsError):
                    obstore.put(self._store, MARK, holder.encode(), mode="create")
                found = obstore.get(self._store, MARK).bytes()
            return bytes(found)[:MAX_MARK_BYTES].decode("ascii", "replace")

    def check(self) -> None:
        """Write and delete a small object. See `Storage.check`."""
        with self._calling("a probe"):
            obstore.put(self._store, PROBE, b"probe")
            with suppress(FileNotFoundError):  # another process has just done the same
                obstore.delete(self._store, PROBE)

    @contextmanager
    def _calling(self, key: str) -> Iterator[None]:
        """For what makes its own way: whatever fails is the store's failure."""
        self._refuse_forks()
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise _unavailable(key, error) from error

    @contextmanager
    def _finding(self, key: str) -> Iterator[None]:
        """Tell a file that is not there from a store that does not answer."""
        with self._calling(key):
            try:
                yield
            except FileNotFoundError as error:
                if any(code in str(error) for code in _NO_BUCKET):
                    raise
                raise Missing(key) from error

    @classmethod
    def _refuse_forks(cls) -> None:
        if cls._process is None:
            cls._process = os.getpid()
        if cls._process != os.getpid():
            logger.error("a process was forked after its object store had been used")
            raise StorageUnavailable


class ObjectWriter:
    """Sends a file in parts. See `Writer`."""

    path = None

    def __init__(self, storage: ObjectStorage, key: str, file: Any) -> None:
        self._storage, self._key, self._file = storage, key, file
        self.is_committed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take some more. See `Writer.write`."""
        with self._storage._calling(self._key):
            self._file.write(data)

    def commit(self) -> None:
        """Put the parts together. See `Writer.commit`."""
        with self._storage._calling(self._key):
            self._file.close()
            self.is_committed = True

    def abort(self) -> None:
        """Have the parts deleted, as far as the store can be reached."""
        # Why the file is given up is known already.
        with suppress(BaseError, OSError, ValueError):
            self._file.__exit__(InterruptedError, None, None)  # any error does


def open_bucket(
    place: BucketPlace, timeout: float, sending_seconds: float = SENDING_SECONDS
) -> ObjectStorage:
    """Open a bucket; nothing is sent yet.

    :param timeout: seconds that an answer, or its next bytes, may take with all tries.
    :param sending_seconds: that a part of a file may take from its first byte to the answer, where
        that is more.
    :raises StorageUnavailable: obstore can make nothing of these settings.
    """
    try:
        return ObjectStorage(
            _open_store(place, timeout),
            _open_store(place, timeout, answer_seconds=max(timeout, sending_seconds)),
            _header_adder(place),
        )
    except (BaseError, ValueError) as error:
        raise _unavailable(place.bucket, error) from error


def _open_store(place: BucketPlace, timeout: float, answer_seconds: float | None = None) -> Store:
    """Name each service what the URL says in its own words; what it does not say, obstore finds.

    :param answer_seconds: that the last try has; half the timeout for None.
    """
    # The last try begins before the first half is over, and has the second one.
    half = timedelta(seconds=timeout / 2)
    options: dict[str, Any] = {
        "prefix": place.prefix or None,
        "client_options": {
            "allow_http": bool(place.endpoint and place.endpoint.startswith("http://")),
            "connect_timeout": half,
            "read_timeout": timedelta(seconds=answer_seconds) if answer_seconds else half,
            "timeout": WHOLE_REQUEST,
        },
        "retry_config": {
            "max_retries": RETRIES,
            "retry_timeout": half,
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        },
    }
    if place.service == "gs":
        return GCSStore(place.bucket, **options)
    if place.service == "az":
        options |= {"account_name": place.key, "account_key": place.secret}
    else:
        options |= {
            "access_key_id": place.key,
            "secret_access_key": place.secret,
            "region": place.region,
        }
    options["endpoint"] = place.endpoint
    given = {name: value for name, value in options.items() if value}
    return (AzureStore if place.service == "az" else S3Store)(place.bucket, **given)


def _header_adder(place: BucketPlace) -> AddHeaders | None:
    if not place.secret:
        return None
    if place.service == "s3":
        return lambda url, headers: add_headers_for_s3(url, place.secret, headers)
    return lambda url, headers: add_headers_for_azure(
        url, place.key, place.secret, place.bucket, headers
    )


def _describe(found: Mapping[str, Any]) -> StoredObject:
    return StoredObject(found["path"], found["size"], found["last_modified"])


def _unavailable(key: str, error: Exception) -> StorageUnavailable:
    reason, *_ = str(error).split("\n", 1)
    logger.bind(key=key, reason=reason).error("the store of files failed")
    return StorageUnavailable()
