"""Mail templates, over HTTP."""

from __future__ import annotations

from typing import Any

from ghost.access import permissions_required
from ghost.api import Blueprint
from ghost.errors import NotFound
from ghost.mail.previews import TemplateInfo, list_templates, preview
from ghost.mail.rendering import Rendered, UnknownTemplate
from ghost.mail.template_schemas import NewPreview, PreviewSchema, TemplateSchema

bp = Blueprint(
    "mail_templates", __name__, url_prefix="/mail/templates", description="Templates of mails."
)


@bp.get("/")
@permissions_required("mail:send")
@bp.response(200, TemplateSchema(many=True))
def list_all() -> list[TemplateInfo]:
    """List the mail templates, by name.

    The application's and Ghost's own; those with `is_security` can be previewed, not sent.
    """
    return list_templates()


@bp.post("/<name>/preview")
@permissions_required("mail:send")
@bp.errors(NotFound)
@bp.arguments(NewPreview)
@bp.response(200, PreviewSchema)
def preview_template(data: dict[str, Any], name: str) -> Rendered:
    """Show what a template makes of a context; nothing is sent.

    A variable that the context lacks is named in the details of the 422.
    """
    try:
        return preview(name, data["context"], locale=data["locale"])
    except UnknownTemplate as error:
        raise NotFound from error
