"""Mail: templates become messages, and messages leave through the configured provider."""

from ghost.mail.composers import Composition, composer
from ghost.mail.messages import Address, Attachment, InvalidMessage, Message
from ghost.mail.models import MailAttachment, MailBatch, MailMessage, MailSuppression
from ghost.mail.providers import Delivery, NotSent, outbox
from ghost.mail.rendering import Rendered, duration, render
from ghost.mail.services import send_mail, send_secure_mail, send_text, set_file_reader
from ghost.mail.signals import mail_failed, mail_sent

__all__ = [
    "Address",
    "Attachment",
    "Composition",
    "Delivery",
    "InvalidMessage",
    "MailAttachment",
    "MailBatch",
    "MailMessage",
    "MailSuppression",
    "Message",
    "NotSent",
    "Rendered",
    "composer",
    "duration",
    "mail_failed",
    "mail_sent",
    "outbox",
    "render",
    "send_mail",
    "send_secure_mail",
    "send_text",
    "set_file_reader",
]
