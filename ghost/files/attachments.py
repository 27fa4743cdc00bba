"""Files as attachments of mails."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import has_request_context

from ghost.access import current_user
from ghost.config import current_config
from ghost.database import db_manager
from ghost.files.models import PUBLIC, StoredFile
from ghost.files.services import READ_ANY
from ghost.files.storage import current_storage
from ghost.mail.messages import Attachment, InvalidMessage

_files: Any = StoredFile.__table__


def read_attachment(file_id: UUID, caller_id: UUID | None) -> Attachment | None:
    """Read a file that somebody attaches to a mail; see `ghost.mail.set_file_reader`.

    :param caller_id: who does; None for nobody, who may attach public files.
    :returns: None when there is no such file, or not for them.
    :raises InvalidMessage: it is larger than a mail may be.
    :raises StorageUnavailable, Missing: its bytes can't be read.
    """
    statement = sa.select(_files).where(_files.c.id == file_id, _files.c.deleted_at.is_(None))
    if not _may_read_any(caller_id):
        statement = statement.where(
            sa.or_(_files.c.visibility == PUBLIC, _files.c.owner_id == caller_id)
        )
    # Beside the session: no transaction may be open while the storage is read.
    with db_manager.connection() as connection:
        file = connection.execute(statement).one_or_none()
    if file is None:
        return None
    limit = current_config().mail.max_size
    if file.size > limit:
        raise InvalidMessage("attachments", f"The mail is larger than {limit} bytes.")
    content = b"".join(current_storage().read(file.key))
    return Attachment(file.filename, content, file.content_type)


def _may_read_any(caller_id: UUID | None) -> bool:
    return has_request_context() and current_user.id == caller_id and current_user.can(READ_ANY)
