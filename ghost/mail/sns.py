"""Messages of Amazon SNS: whether SNS signed them for our topic, and how it is answered.

See "Verifying the signatures of Amazon SNS messages" in SNS's developer guide.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from loguru import logger

from ghost.errors import ServiceUnavailable
from ghost.mail.events import Forged

# SNS gives a message up after 3,600 seconds of attempts; the rest is for clocks that differ.
MAX_AGE = timedelta(minutes=75)
MAX_AHEAD = timedelta(minutes=10)

FETCH_SECONDS = 3.0
FETCH_BYTES = 64 * 1024
FAILURE_SECONDS = 30.0
WAIT_SECONDS = 1.0  # for the fetch of another certificate
MAX_FAILURES = 30
WINDOW_SECONDS = 60.0
MAX_CERTIFICATES = 16

NOTIFICATION = "Notification"
SUBSCRIPTION = "SubscriptionConfirmation"
_CONFIRMATION_FIELDS = (
    "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
)  # fmt: skip
_SIGNED_FIELDS = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    SUBSCRIPTION: _CONFIRMATION_FIELDS,
    "UnsubscribeConfirmation": _CONFIRMATION_FIELDS,
}
_HASHES: dict[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303
_CERTIFICATE_PATH = re.compile(r"/[A-Za-z0-9_-]{1,200}\.pem")


class NotFetched(Exception):
    """A request to SNS failed; `status` is its HTTP status, None when there was no answer."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


def host_of(topic: str) -> str:
    """The one host that speaks for a topic: SNS in its region.

    :param topic: the ARN, checked by the configuration: `arn:aws:sns:eu-west-1:123456789012:mail`.
    """
    _arn, partition, _service, region, *_rest = topic.split(":")
    # No pattern such as sns.*.amazonaws.com: sns.s3.amazonaws.com is a bucket that anybody may own.
    return f"sns.{region}.amazonaws.com" + (".cn" if partition == "aws-cn" else "")


def confirmation_url(topic: str, token: str) -> str:
    """The address that confirms a subscription, made of what we know rather than taken as sent."""
    query = urlencode({"Action": "ConfirmSubscription", "TopicArn": topic, "Token": token})
    return f"https://{host_of(topic)}/?{query}"


def fetch(url: str, *, seconds: float = FETCH_SECONDS, ca_file: str | None = None) -> bytes:
    """GET a short document over TLS: no redirect, no proxy, 64 KiB at most.

    :param seconds: for connecting, for the wait for each piece, and for the whole body.
    :param ca_file: certificates to trust instead of the system's.
    :raises NotFetched: it did not come, not in time, or with another status than 200.
    """
    urllib3 = import_module("urllib3")  # which takes long, and few have these webhooks
    deadline = time.monotonic() + seconds
    timeout = urllib3.Timeout(connect=seconds, read=seconds, total=seconds)
    body = bytearray()
    try:
        with (
            urllib3.PoolManager(timeout=timeout, ca_certs=ca_file) as pool,
            pool.request(
                "GET", url, preload_content=False, redirect=False, retries=False,
                headers={"Accept-Encoding": "identity"},
            ) as response,
        ):  # fmt: skip
            if response.status != 200:
                raise NotFetched(f"the answer was {response.status}", response.status)
            while piece := response.read1(8192, decode_content=False):
                body += piece
                if len(body) > FETCH_BYTES or time.monotonic() > deadline:
                    raise NotFetched("the answer was too long, or took too long")
    except urllib3.exceptions.HTTPError as error:
        raise NotFetched(f"{type(error).__name__}: {error}") from error
    return bytes(body)


class Certificates:
    """Certificates by their URL, each fetched once.

    Only one is fetched at a time, and nobody waits long for another one, so that forged messages
    can't take up all threads. One that could not be had is not asked for again for half a minute,
    and after 30 failures within a minute no other one is either. Those that are kept always count.

    :param fetch: gets a URL's bytes, or raises `NotFetched`.
    """

    def __init__(
        self,
        fetch: Callable[[str], bytes] = fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch, self._clock = fetch, clock
        self._kept: dict[str, x509.Certificate] = {}
        self._failed: dict[str, Failure] = {}
        self._failed_at: deque[float] = deque(maxlen=MAX_FAILURES)
        self._fetching = threading.Lock()

    def get(self, url: str) -> x509.Certificate:
        """The certificate at a URL that was checked before.

        :raises Forged: there is none.
        :raises ServiceUnavailable: it can't be had now, or another one is being fetched.
        """
        if kept := self._known(url):
            return kept
        # Briefly: what somebody made up is refused in a moment, and a genuine message comes next.
        if not self._fetching.acquire(timeout=WAIT_SECONDS):
            raise ServiceUnavailable
        try:
            return self._known(url) or self._load(url)
        finally:
            self._fetching.release()

    def _known(self, url: str) -> x509.Certificate | None:
        kept = self._kept.get(url)
        if kept is not None:
            return kept
        now = self._clock()
        failed = self._failed.get(url)
        if failed is not None and now < failed.until:
            raise failed.error
        failures = self._failed_at
        if len(failures) == MAX_FAILURES and now < failures[0] + WINDOW_SECONDS:
            raise ServiceUnavailable
        return None

    def _load(self, url: str) -> x509.Certificate:
        try:
            certificate = _read(self._fetch(url))
        except NotFetched as error:
            # What SNS itself does not know is none of its certificates; else it is away.
            is_gone = error.status is not None and 300 <= error.status < 500
            raise self._note_failure(url, Forged if is_gone else ServiceUnavailable) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self._note_failure(url, Forged) from error
        _make_room(self._kept)
        self._kept[url] = certificate
        return certificate

    def _note_failure(
        self, url: str, error: type[Forged | ServiceUnavailable]
    ) -> Forged | ServiceUnavailable:
        logger.bind(url=url).warning("a certificate of SNS could not be had")
        _make_room(self._failed)
        self._failed[url] = Failure(self._clock() + FAILURE_SECONDS, error)
        self._failed_at.append(self._clock())
        return error()


class Failure(NamedTuple):
    """How a certificate that could not be had is answered, until a time of the clock."""

    until: float
    error: type[Forged | ServiceUnavailable]


def _read(pem: bytes) -> x509.Certificate:
    certificate = x509.load_pem_x509_certificate(pem)
    if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
        raise ValueError("no certificate of an RSA key")
    return certificate


def _make_room(store: dict[str, Any]) -> None:
    while len(store) >= MAX_CERTIFICATES:
        del store[next(iter(store))]


certificates = Certificates()


def verify(message: Mapping[str, Any], topic: str, now: datetime) -> None:
    """Check that SNS signed a message for our topic, and lately.

    What costs nothing comes first: a stranger's message has no certificate fetched.

    :raises Forged: it did not.
    :raises ServiceUnavailable: the certificate can't be had now.
    """
    names = _SIGNED_FIELDS.get(_text(message, "Type"))
    algorithm = _HASHES.get(_text(message, "SignatureVersion"))
    if names is None or algorithm is None or _text(message, "TopicArn") != topic:
        raise Forged
    if not -MAX_AHEAD <= now - _moment(_text(message, "Timestamp")) <= MAX_AGE:
        raise Forged
    url = _text(message, "SigningCertURL")
    start = f"https://{host_of(topic)}"
    if not (url.startswith(start) and _CERTIFICATE_PATH.fullmatch(url[len(start) :])):
        raise Forged
    try:
        signature = base64.b64decode(_text(message, "Signature"), validate=True)
    except ValueError as error:
        raise Forged from error
    signed = _canonical(message, names)
    certificate = certificates.get(url)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Forged
    key = cast(rsa.RSAPublicKey, certificate.public_key())
    try:
        key.verify(signature, signed, padding.PKCS1v15(), algorithm)
    except InvalidSignature as error:
        raise Forged from error


def _canonical(message: Mapping[str, Any], names: tuple[str, ...]) -> bytes:
    """The text that SNS signs: names and values, a line each, in the order of the names."""
    present = (name for name in names if name != "Subject" or message.get(name) is not None)
    return "".join(f"{name}\n{_text(message, name)}\n" for name in present).encode()


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise Forged
    return value


def _moment(text: str) -> datetime:
    """Read `2026-01-02T03:04:05.678Z`."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise Forged from error
