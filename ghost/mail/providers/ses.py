"""Hand messages to Amazon SES through boto3.

Loaded only where mail goes there: boto3 comes with the extra `ses`, and takes its time to load.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from boto3.session import Session
from botocore import exceptions
from botocore.config import Config

from ghost.config_mail import SesAccount
from ghost.jobs import Permanent
from ghost.mail.messages import Message
from ghost.mail.providers.base import Closing, Delivery, NotSent, Unreachable, printable

MAX_WORDS = 300

# What SES says about the mail itself. See the SES API v2 reference, SendEmail, "Errors".
_REFUSALS = frozenset(
    ("MessageRejected", "BadRequestException", "InvalidParameterValue", "ValidationException")
)
# What it says about the account, its keys or its limits: another provider may take the mail.
_NOT_SERVED = frozenset(
    (
        "AccessDeniedException", "AccountSuspendedException", "ExpiredTokenException",
        "InvalidClientTokenId", "InvalidSignatureException", "LimitExceededException",
        "MailFromDomainNotVerifiedException", "MissingAuthenticationTokenException",
        "NotFoundException", "OptInRequired", "RequestExpired", "SendingPausedException",
        "ServiceUnavailable", "SignatureDoesNotMatch", "Throttling", "ThrottlingException",
        "TooManyRequestsException", "UnrecognizedClientException",
    )
)  # fmt: skip


class SesProvider(Closing):
    """Hand messages to Amazon SES as they are, with their own envelope.

    :param timeout_seconds: for connecting, and again for the answer.
    """

    name = "ses"

    def __init__(self, account: SesAccount, *, timeout_seconds: float) -> None:
        self.account = account
        self.timeout_seconds = timeout_seconds

    def send(self, message: Message) -> Delivery:
        client = _client(self.account, self.timeout_seconds)
        request: dict[str, Any] = {
            "Destination": _envelope(message),
            "Content": {"Raw": {"Data": message.as_bytes()}},
            # They come back with every event about the mail.
            "EmailTags": [{"Name": "ghost_message_id", "Value": _tag(message)}],
        }
        if self.account.configuration_set:
            request["ConfigurationSetName"] = self.account.configuration_set
        try:
            client.send_email(**request)
        except exceptions.ClientError as error:
            raise _refusal(error.response) from error
        except (
            exceptions.EndpointConnectionError,
            exceptions.ConnectTimeoutError,
            exceptions.SSLError,
            exceptions.ProxyConnectionError,
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
        ) as error:
            raise Unreachable(f"SES can't be reached: {_printed(error)}") from error
        except exceptions.ParamValidationError as error:
            raise Permanent(f"SES can't be asked that: {_printed(error)}") from error
        except exceptions.BotoCoreError as error:
            raise NotSent(f"nobody knows whether SES took it: {_printed(error)}") from error
        return Delivery(message.destinations, provider=self.name)


@lru_cache(maxsize=4)
def _client(account: SesAccount, timeout_seconds: float) -> Any:
    """The client of an account, kept by the process: making one reads megabytes of JSON."""
    return Session().client(
        "sesv2",
        region_name=account.region,
        endpoint_url=account.endpoint,
        aws_access_key_id=account.key or None,
        aws_secret_access_key=account.secret or None,
        config=Config(
            connect_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
            # The job tries again, and knows what was recorded.
            retries={"total_max_attempts": 1, "mode": "standard"},
            ignore_configured_endpoint_urls=True,
        ),
    )


def _envelope(message: Message) -> dict[str, list[str]]:
    """Who gets it: named here, SES does not look for them in the mail's headers."""
    lists = {
        "ToAddresses": message.addresses,
        "CcAddresses": message.cc_addresses,
        "BccAddresses": message.bcc_addresses,
    }
    return {
        name: left
        for name, addresses in lists.items()
        if (left := [one.email for one in addresses if one.email in message.destinations])
    }


def _tag(message: Message) -> str:
    """What stands before the @ of the Message-ID: the id of the row."""
    local = (message.message_id or "")[1:].partition("@")[0]
    return "".join(one if one.isalnum() or one in "_-" else "_" for one in local)[:256]


def _refusal(response: dict[str, Any]) -> Exception:
    error = response.get("Error", {})
    code = str(error.get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    words = f"SES answered {status} {code}: {_printed(error.get('Message', ''))}"
    if code in _NOT_SERVED or status in (401, 403, 429, 503):
        return Unreachable(words)
    if code in _REFUSALS or status == 413:
        return Permanent(words)
    return NotSent(words)


def _printed(words: object) -> str:
    return printable(" ".join(str(words).split()))[:MAX_WORDS]
