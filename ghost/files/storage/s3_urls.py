"""Addresses of S3 that also say what to answer with. See AWS Signature Version 4."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

_PARAMETERS = {
    "Content-Type": "response-content-type",
    "Content-Disposition": "response-content-disposition",
    "Cache-Control": "response-cache-control",
}


def add_headers(url: str, secret: str, headers: Mapping[str, str]) -> str:
    """Put headers for the answer into a signed address for GET, and sign it anew.

    :param url: as obstore 0.12 makes it, which can't sign these parameters.
    :param secret: of the access key that signed it.
    :param headers: Content-Type, Content-Disposition and Cache-Control, as far as they are given.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    del query["X-Amz-Signature"]
    query |= {_PARAMETERS[name]: value for name, value in headers.items()}
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


def _quote(text: str) -> str:
    return quote(text, safe="-_.~")


def _sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
