"""Requests of resumable uploads, as a client of tus makes them."""

from __future__ import annotations

import base64

from werkzeug.test import TestResponse

from ghost.testing.clients import Client

UPLOADS = "/api/v1/files/uploads"
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = "application/offset+octet-stream"
TEXT = b"Hello, resumable world!\n"


def described(**values: str) -> str:
    """Text for `Upload-Metadata`."""
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items()
    )


def create(client: Client, length: int | str = len(TEXT), **headers: str) -> TestResponse:
    """Ask for an upload, `Upload_Metadata` for a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Upload-Metadata", described(filename="hello.txt", filetype="text/plain"))
    return client.post(UPLOADS, headers={**TUS, "Upload-Length": str(length), **named})


def begin(client: Client, length: int = len(TEXT), **headers: str) -> str:
    """Begin an upload and give its address."""
    response = create(client, length, **headers)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


def send(client: Client, url: str, offset: int | str, data: bytes, **headers: str) -> TestResponse:
    """Send the next bytes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.patch(
        url, data=data, content_type=BYTES, headers={**TUS, "Upload-Offset": str(offset), **named}
    )
