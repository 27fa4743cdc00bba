"""Making one variant: from the bytes of its file to bytes and a row of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from ghost.config import current_config
from ghost.config_storage import VariantSetting
from ghost.errors import NotFound
from ghost.files import variant_rows
from ghost.files.aftermath import discard
from ghost.files.arrivals import limits_of
from ghost.files.images import ImageTooLarge, NotAnImage, Picture, Variant, make_variant
from ghost.files.storage import current_storage
from ghost.files.storage.base import Missing
from ghost.files.variant_rows import Claim
from ghost.logging import logger

SPOOL_BYTES = 8 * 2**20  # of an original from a bucket that is kept in memory


def make(file_key: str, claimed: Claim, setting: VariantSetting, content_type: str) -> None:
    """Make a variant that was claimed, store it, and note it; no transaction is open meanwhile.

    A picture that none can be made of is noted too. What fails otherwise gives the claim back; a
    process that is killed leaves it to its end.

    :param content_type: as which, one of `ghost.files.images.VARIANT_TYPES`.
    :raises NotAnImage, ImageTooLarge: none can be made.
    :raises NotFound: the bytes of the file are missing, which is logged.
    :raises StorageUnavailable: the storage is away or full.
    """
    variant = Variant("", setting.width, setting.height, setting.fit, setting.quality)
    try:
        with _opened(file_key) as source:
            limits = limits_of(current_config().storage)
            picture = make_variant(source, variant, content_type, limits)
        _store(claimed.key, picture)
    except (NotAnImage, ImageTooLarge) as error:
        logger.bind(key=file_key, error=str(error)).warning("no variant can be made of an image")
        variant_rows.give_up(claimed)
        raise
    except Missing as error:
        logger.bind(key=file_key).error("the bytes of a file are missing")
        variant_rows.release(claimed)
        raise NotFound from error
    except BaseException:
        variant_rows.release(claimed)
        raise
    if variant_rows.finish(claimed, picture):
        logger.bind(key=claimed.key, original=file_key, size=len(picture.content)).info(
            "variant of an image made"
        )
    else:  # the file was purged, or the claim had ended and somebody else has it
        discard(claimed.key)


def _store(key: str, picture: Picture) -> None:
    with current_storage().create(key, picture.info.content_type) as writer:
        writer.write(picture.content)
        writer.commit()


@contextmanager
def _opened(key: str) -> Iterator[BinaryIO]:
    """Open a stored file for a reader that seeks; one from a bucket is copied first."""
    storage = current_storage()
    local = storage.open_local(key)
    if local is not None:
        with io.BufferedReader(cast(io.RawIOBase, local)) as file:
            yield file
        return
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as copy:
        with closing(storage.read(key)) as pieces:
            for piece in pieces:
                copy.write(piece)
        copy.seek(0)
        yield cast(BinaryIO, copy)
