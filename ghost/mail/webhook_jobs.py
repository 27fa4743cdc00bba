"""What webhooks leave to a worker, since a request must wait for no stranger."""

from __future__ import annotations

from loguru import logger

from ghost.config import current_config
from ghost.jobs import Permanent, job
from ghost.mail import sns


class NotConfirmed(Permanent):
    """SNS does not take the confirmation; a new one can be asked for in its console."""


@job(name="mail.confirm_subscription", timeout=30)
def confirm_subscription(token: str) -> None:
    """Tell SNS that its topic may send us events. Again is no harm."""
    topic = current_config().mail.ses_topic
    if topic is None:  # taken out of the configuration while the job waited
        return
    try:
        sns.fetch(sns.confirmation_url(topic, token))
    except sns.NotFetched as error:
        if error.status is not None and 300 <= error.status < 500 and error.status != 429:
            raise NotConfirmed(str(error)) from error
        raise
    logger.bind(event="sns_confirmed", topic=topic).info("a subscription of SNS is confirmed")
