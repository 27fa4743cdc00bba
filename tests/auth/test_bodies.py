"""Calls that take no body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ghost.users.models import User


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 200), (b"{}", 200), (b"{bad", 400), (b'{"everywhere": true}', 422), (b"[1]", 422)],
)
def test_a_log_out_takes_no_fields(
    client: Any, make_user: Callable[..., User], body: bytes, status: int
) -> None:
    caller = client.as_user(make_user())

    response = caller.post("/api/v1/auth/logout", data=body, content_type="application/json")

    assert response.status_code == status
