"""Sending one mail, now."""

from __future__ import annotations

import re
from dataclasses import replace
from uuid import UUID, uuid4

from loguru import logger

from ghost.config import Config, current_config
from ghost.mail.messages import Address, Message
from ghost.mail.providers import Delivery, open_provider

_BARE_IP = re.compile(r"@(?:[\d.]+|\[[0-9A-Fa-f:.]+\])(?=>?\Z)")


def deliver(message: Message) -> Delivery:
    """Send a mail through the configured provider and wait until that has taken it.

    For worker jobs only: an SMTP server may take its time. Sender and Message-ID are filled in
    where they are missing; give the Message-ID yourself (`message_id_for`) in a job that may run
    twice.

    :returns: who was accepted and who was refused; a refusal of some is also logged.
    :raises ghost.jobs.Permanent: nobody can get this mail; sending it again is no use.
    :raises NotSent: it failed this time.
    """
    config = current_config()
    complete = replace(
        message,
        sender=message.sender or sender(config),
        message_id=message.message_id or message_id_for(uuid4()),
    )
    with open_provider(config) as provider:
        delivery = provider.send(complete)
    log = logger.bind(message_id=complete.message_id, recipients=len(delivery.accepted))
    if delivery.refused:
        log.bind(refused=dict(delivery.refused)).warning("the mail server refused some recipients")
    log.info("mail sent")
    return delivery


def sender(config: Config) -> Address:
    """Who mails come from: `mail.sender`, shown with the application's name if it has none."""
    # Without a domain the default is no-reply@127.0.0.1 or so, which is no mail address.
    plain = _BARE_IP.sub("@localhost", config.mail.sender)
    address = Address.parse(plain, "sender")
    return address if address.name else Address(address.email, config.app.name)


def message_id_for(job_id: UUID | str) -> str:
    """The Message-ID of the mail that a job sends, the same in each of its attempts."""
    return f"<{job_id}@{sender(current_config()).domain}>"


def mail_attempts() -> int:
    """How often one mail is tried: for `@job(max_attempts=mail_attempts)`."""
    return current_config().mail.max_attempts
