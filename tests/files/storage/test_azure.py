"""What Azure has of its own: how addresses are signed. The contract is tested with it as well."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from object_stores import Azurite

from ghost.files.storage.objects import open_bucket

KEY = "2026/11/some-id"
HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Disposition": "attachment; filename=\"a b.txt\"; filename*=UTF-8''%E2%82%AC%25.txt",
    "Cache-Control": "private, no-cache",
}


@pytest.mark.parametrize("prefix", ["", "of-a-test/bucket"])
def test_a_signed_address_of_azure_gives_the_bytes_with_the_headers_that_it_names(
    azurite: Azurite, prefix: str
) -> None:
    """Azurite, unlike moto, does check signatures."""
    storage = open_bucket(azurite.make_place(prefix), 10)
    with storage.create(KEY, "text/plain") as writer:
        writer.write(b"some bytes")
        writer.commit()

    url = storage.signed_url(KEY, 60, HEADERS)

    assert url is not None
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"some bytes"
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(url.replace("rscd=attachment", "rscd=inline"))
