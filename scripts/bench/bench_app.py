"""Ghost with the two file routes that the benchmark checks before it measures anything.

They are a plain blueprint, the least that answers: Ghost's own files are not measured here.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

from flask import Blueprint, request, send_file
from flask.typing import ResponseReturnValue

from ghost import create_app, login_required

FILES = Path(os.environ["FILES_DIR"])
bp = Blueprint("bench_files", __name__, url_prefix="/api/v1/files")


@bp.post("")
@login_required
def upload() -> ResponseReturnValue:
    content = request.files["file"].read()
    file_id = str(uuid.uuid4())
    (FILES / file_id).write_bytes(content)
    return {
        "id": file_id,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }, 201


@bp.get("/<uuid:file_id>/content")
@login_required
def content(file_id: uuid.UUID) -> ResponseReturnValue:
    return send_file(FILES / str(file_id), mimetype="application/octet-stream")


app = create_app(blueprints=[bp])
