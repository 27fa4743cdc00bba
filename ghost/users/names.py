"""The form of usernames and of role names."""

from __future__ import annotations

import re

USERNAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{1,62}[A-Za-z0-9]$")
ROLE_NAME = re.compile(r"^[A-Z][A-Z0-9_]{1,63}$")

# In lower case, as they are compared.
RESERVED_USERNAMES = frozenset(
    {
        "abuse", "account", "accounts", "admin", "administrator", "anonymous", "api", "auth",
        "billing", "contact", "docs", "everyone", "ghost", "health", "help", "hostmaster", "info",
        "login", "logout", "mail", "me", "metrics", "moderator", "no-reply", "none", "noreply",
        "null", "official", "openapi", "owner", "password", "postmaster", "redoc", "register",
        "root", "security", "signin", "signup", "staff", "static", "super_admin", "superadmin",
        "superuser", "support", "sysadmin", "system", "undefined", "user", "username", "users",
        "webmaster", "ws", "www",
    }
)  # fmt: skip


def username_key(username: str) -> str:
    """What is compared: usernames are unique whatever their case."""
    return username.lower()
