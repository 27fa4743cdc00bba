"""Which bytes a request may have: the rights are looked at on every read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.access import Access, Caller, authenticate
from ghost.config import current_config
from ghost.errors import Forbidden, NotFound, Unauthorized, ValidationFailed
from ghost.files.models import PUBLIC, StoredFile
from ghost.files.services import READ_ANY
from ghost.files.serving import EVERYBODY, ONE_CALLER, Audience, Download, holder_of_link
from ghost.files.signatures import check_signature
from ghost.reading import ReadWithCaller

_files: Any = StoredFile.__table__
# Read beside the session, in no transaction: none may be open while the bytes are sent.
_FILE = ReadWithCaller(
    sa.select(
        _files.c.id, _files.c.owner_id, _files.c.visibility, _files.c.key, _files.c.size,
        _files.c.content_type, _files.c.category, _files.c.filename, _files.c.sha256,
        _files.c.width, _files.c.height, _files.c.created_at,
    ).where(_files.c.id == sa.bindparam("file_id"), _files.c.deleted_at.is_(None))
)  # fmt: skip


def find_content(file_id: UUID, query: Mapping[str, Any]) -> tuple[Download, Audience]:
    """Find the bytes of a file that the request may read.

    :param query: as `find_readable`.
    :raises LinkInvalid, NotFound, Unauthorized: as `find_readable`.
    """
    file, audience = find_readable(file_id, None, query)
    download = Download(
        key=file.key,
        size=file.size,
        content_type=file.content_type,
        filename=file.filename,
        etag=file.sha256,
        modified_at=file.created_at,
    )
    return download, audience


def find_readable(
    file_id: UUID, variant: str | None, query: Mapping[str, Any]
) -> tuple[Any, Audience]:
    """Find the row of a file that the request may read, or of which it may read a variant.

    :param query: of the URL: `download`, and `expires` and `signature` of a signed one.
    :raises LinkInvalid: the URL is signed, but not by us for this, or is over.
    :raises NotFound: there is no such file, or not for them.
    :raises Unauthorized: the file is not public, and what the caller logs in with is no good.
    """
    audience: Audience | None = None
    if "signature" in query:
        left = check_signature(
            file_id,
            variant,
            expires=query["expires"],
            signature=query["signature"],
            download=query["download"],
        )
        audience = holder_of_link(left)
    file = _FILE.first({"file_id": file_id}, brings_caller=audience is None)
    if audience is None:
        audience = _audience_of(file)
    if file is None:
        raise NotFound
    return file, audience


def _audience_of(file: Any) -> Audience:
    """Tell who asks, for a file or None: who may not see it can't tell the two apart."""
    if file is not None and file.visibility == PUBLIC:
        return EVERYBODY
    try:
        Access().check()
    except Unauthorized as error:
        if type(error) is Unauthorized:  # no credentials at all
            raise NotFound from error
        raise
    caller = authenticate()
    if file is None or not (file.owner_id == caller.id or caller.can(READ_ANY)):
        raise NotFound
    return ONE_CALLER


def check_may_pass_on(caller: Caller, file: StoredFile) -> None:
    """Make sure that somebody may give a file that they see to others.

    An address outlives the publicity of a file, so that of a stranger would keep it public.

    :raises Forbidden: it is public, and somebody else's.
    """
    if file.owner_id != caller.id and not caller.can(READ_ANY):
        raise Forbidden


def check_variant(file: StoredFile, variant: str | None) -> None:
    """Make sure that a file has a variant of this name, or can have one.

    :raises ValidationFailed: it can't.
    """
    if variant is None:
        return
    if variant not in current_config().storage.variants:
        raise ValidationFailed(details={"json": {"variant": ["There is no such variant."]}})
    if file.category != "image":
        raise ValidationFailed(details={"json": {"variant": ["The file is no image."]}})
