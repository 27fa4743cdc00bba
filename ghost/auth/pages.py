"""The pages that mailed links open, so that they work before an application has a front end."""

from __future__ import annotations

from flask import Blueprint, Response, render_template

from ghost.config import current_config

# The pages hold neither a token nor a session; strict all the same, since a token passes by.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}

pages_bp = Blueprint(
    "account_pages",
    __name__,
    url_prefix="/account",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)


@pages_bp.after_request
def _protect(response: Response) -> Response:
    response.headers.update(_HEADERS)
    if response.mimetype == "text/html":
        response.headers["Cache-Control"] = "no-store"
    return response


@pages_bp.get("/verify-email", strict_slashes=False)
def verify_email() -> str:
    """The page of a verification link; its button confirms, opening it changes nothing."""
    return render_template("account/verify-email.html", app_name=current_config().app.name)


@pages_bp.get("/reset-password", strict_slashes=False)
def reset_password() -> str:
    """The page of a reset link or an invitation: a form for the new password."""
    config = current_config()
    return render_template(
        "account/reset-password.html",
        app_name=config.app.name,
        password_min_length=config.auth.password_min_length,
    )
