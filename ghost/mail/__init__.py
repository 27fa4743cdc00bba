"""Mail: templates become messages, and messages leave through the configured transport."""

from ghost.mail.messages import Address, InvalidMessage, Message
from ghost.mail.models import MailAttachment, MailBatch, MailMessage, MailSuppression
from ghost.mail.rendering import duration, render
from ghost.mail.services import deliver, mail_attempts, message_id_for
from ghost.mail.transports import Delivery, NotSent, outbox

__all__ = [
    "Address",
    "Delivery",
    "InvalidMessage",
    "MailAttachment",
    "MailBatch",
    "MailMessage",
    "MailSuppression",
    "Message",
    "NotSent",
    "deliver",
    "duration",
    "mail_attempts",
    "message_id_for",
    "outbox",
    "render",
]
