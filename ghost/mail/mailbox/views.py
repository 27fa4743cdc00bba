"""The pages of the development mailbox: no script, and nothing from elsewhere."""

from __future__ import annotations

import io
import re
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, render_template, request, send_file, url_for
from werkzeug.utils import redirect

from ghost.access import public
from ghost.config import current_config
from ghost.errors import Forbidden, NotFound, ValidationFailed
from ghost.http import LOOPBACK, Hosts
from ghost.mail import previews
from ghost.mail.mailbox import reading, store
from ghost.mail.rendering import Rendered
from ghost.network import is_this_machine
from ghost.ratelimit import unlimited

TABS = ("html", "text", "links", "attachments", "headers", "source")
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# The mail itself runs in an origin of its own, without scripts and forms. Its links open a tab,
# and images of other hosts are loaded when the reader wants them: they tell that it was read.
MAIL_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "style-src 'unsafe-inline'; img-src {images}; frame-ancestors 'self'"
)
# Only names of this machine: a page of another host whose name leads here would come with its
# own (DNS rebinding), and so would a tunnel that shows a developer's machine to the world.
_HOSTS = Hosts((*LOOPBACK, ".localhost"))
_HEAD = re.compile(r"<head(?:\s[^>]{0,1000})?>", re.IGNORECASE)
_HEAD_CHARACTERS = 10_000  # in which it is looked for
_DOCTYPE = re.compile(r"\s*<!doctype[^>]*>", re.IGNORECASE)

bp = Blueprint(
    "mailbox",
    __name__,
    url_prefix="/dev/mail",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)


@bp.before_request
def _only_from_here() -> None:
    """Refuse other machines, other names of this one, and changes that another page asks for."""
    _HOSTS.require(request.host)
    if not is_this_machine(request.remote_addr or ""):
        raise Forbidden("The development mailbox answers to this machine alone.")
    if request.method not in ("GET", "HEAD", "OPTIONS") and not _is_same_origin():
        raise Forbidden("This has to come from the mailbox's own page.")


def _is_same_origin() -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(request.headers.get("Origin", "")).netloc == request.host


@bp.after_request
def _protect(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    response.headers["Referrer-Policy"] = "same-origin"  # else a form's Origin would be "null"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/")
@public
@unlimited
def index() -> str:
    """The mails, the newest first."""
    return _page("mailbox/index.html")


@bp.get("/<name>")
@public
@unlimited
def show(name: str) -> tuple[str, int] | str:
    """One mail."""
    mail = _find(name)
    if mail is None:
        return _page("mailbox/gone.html"), 404
    tab = request.args.get("tab", "")
    if tab not in TABS:
        tab = "text" if mail.html is None else "html"
    return _page(
        "mailbox/mail.html", mail=mail, tab=tab, tabs=TABS, has_images="images" in request.args
    )


@bp.get("/<name>/html")
@public
@unlimited
def html(name: str) -> Response:
    """A mail's HTML, locked in."""
    mail = _found(name)
    if mail.html is None:
        raise NotFound
    return _locked_in(mail.html_with_images())


@bp.get("/<name>/files/<int:number>")
@public
@unlimited
def file(name: str, number: int) -> Response:
    """An attachment, to be saved and not to be shown."""
    files = _found(name).files
    if not 1 <= number <= len(files):
        raise NotFound
    wanted = files[number - 1]
    return send_file(
        io.BytesIO(wanted.content),
        mimetype=wanted.content_type,
        as_attachment=True,
        download_name=wanted.name,
    )


@bp.get("/<name>/source.eml")
@public
@unlimited
def source(name: str) -> Response:
    """The whole mail as a file that mail programs open."""
    kept = store.find(store.folder(current_config()), name)
    if kept is None:
        raise NotFound
    return send_file(
        io.BytesIO(store.read(kept)),
        mimetype="message/rfc822",
        as_attachment=True,
        download_name=f"{name}.eml",
    )


@bp.post("/<name>/delete")
@public
@unlimited
def delete(name: str) -> Any:
    """Delete one mail."""
    store.delete(store.folder(current_config()), name)
    return redirect(url_for("mailbox.index"), 303)


@bp.post("/delete")
@public
@unlimited
def delete_all() -> Any:
    """Delete all mails."""
    store.delete(store.folder(current_config()))
    return redirect(url_for("mailbox.index"), 303)


@bp.get("/templates")
@public
@unlimited
def templates() -> str:
    """The mail templates."""
    return render_template(
        "mailbox/templates.html",
        app_name=current_config().app.name,
        templates=previews.list_templates(),
        chosen=None,
    )


@bp.get("/templates/<name>")
@public
@unlimited
def template(name: str) -> tuple[str, int] | str:
    """A template with its sample data."""
    found = previews.list_templates()
    chosen = next((one for one in found if one.name == name), None)
    if chosen is None:
        raise NotFound
    locale = _locale()
    rendered: Rendered | None = None
    problem = None
    try:
        rendered = previews.preview(name, previews.sample_of(name), locale=locale)
    except (ValidationFailed, ValueError) as error:
        problem = str(error)
    tab = request.args.get("tab", "")
    if tab not in ("html", "text"):
        tab = "html" if rendered is None or rendered.html is not None else "text"
    return render_template(
        "mailbox/templates.html",
        app_name=current_config().app.name,
        templates=found,
        chosen=chosen,
        locale=locale,
        rendered=rendered,
        problem=problem,
        tab=tab,
    )


@bp.get("/templates/<name>/html")
@public
@unlimited
def template_html(name: str) -> Response:
    """A template's HTML with its sample data, locked in."""
    try:
        rendered = previews.preview(name, previews.sample_of(name), locale=_locale())
    except (ValidationFailed, ValueError) as error:
        raise NotFound from error
    if rendered.html is None:
        raise NotFound
    return _locked_in(rendered.html)


def _page(page: str, **values: Any) -> str:
    place = store.folder(current_config())
    mails = [reading.summarize(kept) for kept in store.list_kept(place)]
    return render_template(page, app_name=current_config().app.name, mails=mails, **values)


def _find(name: str) -> reading.Mail | None:
    kept = store.find(store.folder(current_config()), name)
    return reading.open_mail(kept) if kept else None


def _found(name: str) -> reading.Mail:
    mail = _find(name)
    if mail is None:
        raise NotFound
    return mail


def _locale() -> str | None:
    return request.args.get("locale") or None


def _locked_in(document: str) -> Response:
    """A mail's HTML as an answer of its own, whose links open in new tabs."""
    head = _HEAD.search(document, 0, _HEAD_CHARACTERS) or _DOCTYPE.match(document)
    at = head.end() if head else 0
    document = f'{document[:at]}<base target="_blank">{document[at:]}'
    images = "data: https: http:" if "images" in request.args else "data:"
    return Response(
        document,
        mimetype="text/html",
        headers={"Content-Security-Policy": MAIL_POLICY.format(images=images)},
    )
