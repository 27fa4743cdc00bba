"""What a worker does with large pictures."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db_manager
from ghost.files import variant_rows
from ghost.files.images import ImageTooLarge, NotAnImage
from ghost.files.making import make
from ghost.files.models import StoredFile
from ghost.files.variant_rows import State, Wanted, stored_name
from ghost.files.workshop import WorkshopFull, only_bench
from ghost.jobs import RetryLater, job, job_failed
from ghost.jobs.ledger import jobs
from ghost.models import utcnow

NAME = "files.make_variant"
TIMEOUT_SECONDS = 120
# Longer than the job may take: nobody takes over from one that is alive.
CLAIM_SECONDS = TIMEOUT_SECONDS + 30.0
# For another large picture; then the job steps back, so that its process can do others.
WAIT_SECONDS = 20.0
BUSY_SECONDS = 5.0
MAX_ATTEMPTS = 10

_files: Any = StoredFile.__table__


@job(name=NAME, timeout=TIMEOUT_SECONDS, max_attempts=MAX_ATTEMPTS, unique="args")
def make_variant(file_id: UUID, variant: str, content_type: str) -> None:
    """Make a variant of a large picture, one such at a time on each machine.

    :param variant: its name in the configuration; one that is not there any more is not made.
    """
    setting = current_config().storage.variants.get(variant)
    with db_manager.connection() as connection:
        key = connection.scalar(
            sa.select(_files.c.key).where(_files.c.id == file_id, _files.c.deleted_at.is_(None))
        )
    if setting is None or key is None:
        return
    wanted = Wanted(file_id, stored_name(variant, setting), content_type)
    row = variant_rows.find(wanted)
    match variant_rows.state_of(row, utcnow()):
        case State.MADE | State.HOPELESS:
            return
        case State.CLAIMED:  # by a web worker, or by an attempt of this job that was killed
            raise RetryLater(max(1.0, (row.claimed_until - utcnow()).total_seconds()))
    try:
        with only_bench(time.monotonic() + WAIT_SECONDS):
            claimed = variant_rows.claim(wanted, CLAIM_SECONDS)
            if claimed is not None:
                make(key, claimed, setting, content_type)
    except WorkshopFull as error:
        raise RetryLater(BUSY_SECONDS) from error
    except (NotAnImage, ImageTooLarge):  # which is noted
        return


@job_failed.connect
def _give_up_with_job(_app: Any, *, job_id: UUID, name: str, error: str) -> None:
    """Note that a variant can't be made, where the attempts were killed that had claimed it."""
    if name != NAME:
        return
    with db_manager.connection() as connection:
        args = connection.scalar(sa.select(jobs.c.args).where(jobs.c.id == job_id)) or {}
    variant = args.get("variant", "")
    setting = current_config().storage.variants.get(variant)
    if setting is not None:
        variant_rows.give_up_abandoned(
            Wanted(UUID(args["file_id"]), stored_name(variant, setting), args["content_type"])
        )
