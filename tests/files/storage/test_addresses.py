"""What is signed in an address at Azure, which can't be asked here.

obstore signs the same itself as long as no header is to be added: so its own signature is right
where ours is the same.
"""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs

import obstore
import pytest
from object_stores import ACCOUNT_KEY
from obstore.store import AzureStore

from ghost.files.storage.signed_urls import add_headers_for_azure

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:10000/{account}"])
@pytest.mark.parametrize(
    ("account", "container", "prefix"),
    [
        ("shop", "files", "of/it"),
        ("shop", "shop-files", None),
        ("shop", "shop", None),
        ("shop", "shop", "shop/shop"),
        ("shop", "shop-files", "shop"),
    ],
)
def test_it_is_the_account_the_container_and_the_name_whatever_they_are_called(
    account: str, container: str, prefix: str | None, endpoint: str | None
) -> None:
    settings = {"account_name": account, "account_key": ACCOUNT_KEY, "prefix": prefix}
    if endpoint:
        settings["endpoint"] = endpoint.format(account=account)
    store = AzureStore(container, **settings)
    url = obstore.sign(store, "GET", "2026/11/some-id", timedelta(seconds=60))

    ours = add_headers_for_azure(url, account, ACCOUNT_KEY, container, {})

    assert parse_qs(ours.partition("?")[2])["sig"] == parse_qs(url.partition("?")[2])["sig"]
