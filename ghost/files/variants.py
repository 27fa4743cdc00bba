"""Smaller copies of pictures: found, or made by one of those who ask, for all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ghost.config import current_config
from ghost.config_storage import VariantSetting
from ghost.database import db, writing_session
from ghost.errors import NotFound, ServiceUnavailable
from ghost.files import variant_rows
from ghost.files.contents import find_readable
from ghost.files.images import NotAnImage, choose_content_type
from ghost.files.making import make
from ghost.files.serving import Audience, Download
from ghost.files.variant_jobs import make_variant
from ghost.files.variant_rows import State, Wanted, stored_name
from ghost.files.workshop import bench, is_light, seat
from ghost.models import utcnow

# How long a request waits for somebody else, a worker for one.
WAIT_SECONDS: Final = 5.0
# How long one that makes a variant itself has it.
CLAIM_SECONDS: Final = 30.0
# As long as anybody may wait behind a claim.
YOUNG_SECONDS: Final = 2.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.25

_EXTENSIONS = {"image/avif": "avif", "image/jpeg": "jpg", "image/webp": "webp"}


class VariantPending(ServiceUnavailable):
    """A variant is being made, and not finished yet."""

    message = "This image is being made. Please try again shortly."


def find_variant(
    file_id: UUID, variant: str, query: Mapping[str, Any], accept: str | None
) -> tuple[Download, Audience]:
    """Find a variant that the request may read; made now, if it is not there.

    :param query: as `ghost.files.contents.find_readable`.
    :param accept: the header `Accept`.
    :raises NotFound: there is no such variant, no such file, or not for them.
    :raises NotAnImage: the file is no picture, or a damaged one.
    :raises LinkInvalid, Unauthorized: as `find_readable`.
    :raises VariantPending, WorkshopFull, StorageUnavailable: it can't be made in this moment.
    """
    settings = current_config().storage
    setting = settings.variants.get(variant)
    if setting is None:
        raise NotFound
    file, audience = find_readable(file_id, variant, query)
    if file.category != "image":
        raise NotAnImage("This file is no image: it has no variants.")
    content_type = choose_content_type(accept, tuple(settings.variant_types))
    row = _provide(file, variant, setting, content_type)
    stem = file.filename.rpartition(".")[0] or file.filename
    download = Download(
        key=row.key,
        size=row.size,
        content_type=content_type,
        filename=f"{stem}-{variant}.{_EXTENSIONS[content_type]}",
        etag=row.key.rpartition("/")[2],  # a key is never used twice
        modified_at=row.made_at,
    )
    return download, audience


def _provide(file: Any, variant: str, setting: VariantSetting, content_type: str) -> Any:
    """Return the row of a variant that is made, by this request, another one or a worker."""
    wanted = Wanted(file.id, stored_name(variant, setting), content_type)
    deadline = time.monotonic() + WAIT_SECONDS
    is_ours = is_light(file.content_type, file.width, file.height)
    row = variant_rows.find(wanted)
    match variant_rows.state_of(row, utcnow()):
        case State.MADE:
            return row
        case State.HOPELESS:
            raise NotAnImage
        case State.FREE if is_ours:
            _make(file.key, wanted, setting, deadline)
            return _await(wanted, deadline)
        case State.CLAIMED if is_ours and _is_young(row.claimed_until):
            return _await(wanted, deadline)
        # One that was abandoned may have killed its process: no web worker tries it again.
        case State.FREE | State.ABANDONED:
            _order(file.id, variant, content_type)
    with seat():
        return _await(wanted, deadline)


def _is_young(claimed_until: datetime) -> bool:
    """Tell whether a request has claimed a variant just now: most are made within a second.

    Behind an older claim, whose process may be dead, few may wait; behind a worker's too.
    """
    age = CLAIM_SECONDS - (claimed_until - utcnow()).total_seconds()
    return abs(age) < YOUNG_SECONDS  # below zero, where another machine's clock is ahead


def _make(file_key: str, wanted: Wanted, setting: VariantSetting, deadline: float) -> None:
    """Make a variant in this request, if nobody else is faster."""
    with bench(deadline):
        claimed = variant_rows.claim(wanted, CLAIM_SECONDS)
        if claimed is not None:
            make(file_key, claimed, setting, wanted.content_type)


def _await(wanted: Wanted, deadline: float) -> Any:
    """Return the row of a variant once it is made.

    :raises NotAnImage: it can't be.
    :raises VariantPending: it is not until the deadline.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        row = variant_rows.find(wanted)
        match variant_rows.state_of(row, utcnow()):
            case State.MADE:
                return row
            case State.HOPELESS:
                raise NotAnImage
        if time.monotonic() >= deadline:
            raise VariantPending
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _order(file_id: UUID, variant: str, content_type: str) -> None:
    """Have a worker make a variant."""
    with writing_session():
        make_variant.enqueue(file_id, variant, content_type)
        db.session.commit()
