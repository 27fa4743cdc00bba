"""Mail: templates become messages, and messages leave through the configured provider."""

from ghost.mail.messages import Address, Attachment, InvalidMessage, Message
from ghost.mail.models import MailAttachment, MailBatch, MailMessage, MailSuppression
from ghost.mail.providers import Delivery, NotSent, outbox
from ghost.mail.rendering import Rendered, duration, render
from ghost.mail.services import deliver, mail_attempts, message_id_for

__all__ = [
    "Address",
    "Attachment",
    "Delivery",
    "InvalidMessage",
    "MailAttachment",
    "MailBatch",
    "MailMessage",
    "MailSuppression",
    "Message",
    "NotSent",
    "Rendered",
    "deliver",
    "duration",
    "mail_attempts",
    "message_id_for",
    "outbox",
    "render",
]
