"""Events of mail services, signed by keys of our own: what SendGrid and SNS would post."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ghost.models import utcnow
from ghost.testing.clients import Client

SENDGRID_URL, SES_URL = "/api/v1/mail/webhooks/sendgrid", "/api/v1/mail/webhooks/ses"
SIGNATURE_HEADER = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER = "X-Twilio-Email-Event-Webhook-Timestamp"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail"
HOST = "sns.eu-west-1.amazonaws.com"
CERTIFICATE_URL = f"https://{HOST}/SimpleNotificationService-0123456789abcdef.pem"

Fields = dict[str, Any]


# --- SendGrid -------------------------------------------------------------------------------------


@cache
def sendgrid_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sendgrid_public_key() -> str:
    """The verification key, as SendGrid shows it."""
    der = sendgrid_key(0).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def sendgrid_headers(
    body: bytes, *, key: int = 0, age: float = 0, signed: bytes | None = None
) -> dict[str, str]:
    """The headers of a signed post.

    :param age: seconds since it was signed.
    :param signed: what was signed instead of timestamp and body.
    """
    timestamp = str(int(time.time() - age))
    text = timestamp.encode() + body if signed is None else signed
    signature = sendgrid_key(key).sign(text, ec.ECDSA(hashes.SHA256()))
    return {
        SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        TIMESTAMP_HEADER: timestamp,
        "Content-Type": "application/json",
    }


def post_sendgrid(client: Client, events: Any, **options: Any) -> Any:
    """Post events as SendGrid does: each object on a line of its own."""
    body = json.dumps(events).replace("}, {", "},\r\n{").encode() + b"\r\n"
    return client.post(SENDGRID_URL, data=body, headers=sendgrid_headers(body, **options))


# --- SES by SNS -----------------------------------------------------------------------------------


@cache
def sns_key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def sns_certificate(
    number: int = 0, *, begins: timedelta = timedelta(days=-1), ends: timedelta = timedelta(days=1)
) -> bytes:
    """A certificate of SNS's in PEM form; its key has that number."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(sns_key(number).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utcnow() + begins)
        .not_valid_after(utcnow() + ends)
        .sign(sns_key(number), hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def sns_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def sns_message(
    message: Any = "", *, age: timedelta = timedelta(0), topic: str = TOPIC, **fields: Any
) -> Fields:
    """A notification of SNS, not signed yet."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": topic,
        "Subject": "Amazon SES Email Event Notification",
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": sns_time(utcnow() - age),
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE_URL,
        "UnsubscribeURL": f"https://{HOST}/?Action=Unsubscribe",
        **fields,
    }


def sns_subscription(**fields: Any) -> Fields:
    """The message by which SNS asks whether we want a topic's messages."""
    token = fields.get("Token", "2336412f37fb687f5d51e6e2425dacbba4")
    return sns_message(
        "You have chosen to subscribe to the topic.",
        **{
            "Type": "SubscriptionConfirmation",
            "Token": token,
            "SubscribeURL": f"https://{HOST}/?Action=ConfirmSubscription&Token={token}",
            **fields,
        },
    )


def sns_signed(message: Mapping[str, Any], *, key: int = 0) -> Fields:
    """Sign a message as SNS's developer guide says."""
    if message["Type"] == "Notification":
        names = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
    else:
        names = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    text = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
    algorithm = hashes.SHA1() if message["SignatureVersion"] == "1" else hashes.SHA256()
    signature = sns_key(key).sign(text.encode(), padding.PKCS1v15(), algorithm)
    return {**message, "Signature": base64.b64encode(signature).decode()}


def post_sns(client: Client, message: Any) -> Any:
    """Post a message as SNS does: as plain text."""
    return client.post(
        SES_URL,
        data=json.dumps(message).encode(),
        headers={
            "Content-Type": "text/plain; charset=UTF-8",
            "x-amz-sns-message-type": str(message.get("Type")) if isinstance(message, dict) else "",
        },
    )
