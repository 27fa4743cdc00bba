"""Addresses at a store that also say what to answer with, which obstore (0.12) can't sign.

They are obstore's own, signed anew: AWS Signature Version 4, and Azure's service SAS.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_OF_S3 = {
    "Content-Type": "response-content-type",
    "Content-Disposition": "response-content-disposition",
    "Cache-Control": "response-cache-control",
}
_OF_AZURE = {"Content-Type": "rsct", "Content-Disposition": "rscd", "Cache-Control": "rscc"}
# What Azure signs, in its order, for versions from 2020-12-06 on; "" is the path.
_SIGNED_BY_AZURE = (
    "sp", "st", "se", "", "si", "sip", "spr", "sv", "sr", "snapshot", "ses", "rscc", "rscd", "rsce",
    "rscl", "rsct",
)  # fmt: skip


def add_headers_for_s3(url: str, secret: str, headers: Mapping[str, str]) -> str:
    """Put headers for the answer into a signed address of S3 for GET, and sign it anew.

    :param url: as obstore makes it.
    :param secret: of the access key that signed it.
    :param headers: Content-Type, Content-Disposition and Cache-Control, as far as they are given.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    del query["X-Amz-Signature"]
    query |= {_OF_S3[name]: value for name, value in headers.items()}
    canonical_query = "&".join(f"{_quote(name)}={_quote(query[name])}" for name in sorted(query))
    request = f"GET\n{parts.path}\n{canonical_query}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    _, scope = query["X-Amz-Credential"].split("/", 1)
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):  # day, region, service, "aws4_request"
        key = _sign(key, word)
    signature = _sign(key, text).hex()
    return (
        f"{parts.scheme}://{parts.netloc}{parts.path}?{canonical_query}&X-Amz-Signature={signature}"
    )


def add_headers_for_azure(
    url: str, account: str, secret: str, container: str, headers: Mapping[str, str]
) -> str:
    """Do the same for a signed address of Azure.

    :param secret: the account's key, in base64.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    del query["sig"]
    query |= {_OF_AZURE[name]: value for name, value in headers.items()}
    # The account stands in the host, or as with Azurite before the container.
    path = unquote(parts.path).removeprefix(f"/{account}").removeprefix(f"/{container}")
    query[""] = f"/blob/{account}/{container}{path}"
    text = "\n".join(query.get(name, "") for name in _SIGNED_BY_AZURE)
    del query[""]
    query["sig"] = b64encode(_sign(b64decode(secret), text)).decode()
    written = "&".join(f"{name}={_quote(value)}" for name, value in query.items())
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{written}"


def _quote(text: str) -> str:
    return quote(text, safe="-_.~")


def _sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
