"""Passwords: what is a good one, and bcrypt, which sees neither 72 bytes nor the plain text.

A password is normalised to NFC before anything else (RFC 8265, section 4.2: the same password
from another keyboard is the same, and `²` stays another character than `2`); nothing is trimmed
or folded. Its characters are counted after that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from base64 import b64encode
from functools import cache
from pathlib import Path

import bcrypt

from ghost.affinity import on_any_processor
from ghost.config import current_config
from ghost.errors import ValidationFailed

MAX_LENGTH = 128
SHORTEST_CONTEXT_WORD = 3

_COMMON = Path(__file__).parent / "data" / "common-passwords.txt"
# Not a secret: it keeps our inputs to bcrypt apart from other people's SHA-256 lists.
_PREHASH_KEY = b"ghost-bcrypt-v1"
# A well-formed hash that nobody has a password for; the cost goes in front.
_DUMMY_REST = "ghostGhostghostGhosts.uq3nLHkSXyLTGfJNfZPY5Cwn6vJ1CqG"


def normalise(password: str) -> str:
    """Bring a password into the one form that is measured, checked and hashed."""
    return unicodedata.normalize("NFC", password)


def validate_password(password: str, *context_words: str | None, field: str = "password") -> None:
    """Refuse a password that is too short, too long, common, or about its owner.

    :param context_words: names and addresses that an attacker tries first; the product's name is
        always one of them.
    :param field: the name of the password in the request.
    :raises ValidationFailed: with everything that is wrong.
    """
    config = current_config()
    password = normalise(password)
    least = config.auth.password_min_length
    mistakes = []
    if len(password) < least:
        mistakes.append(f"Use at least {least} characters.")
    if len(password) > MAX_LENGTH:
        mistakes.append(f"Use at most {MAX_LENGTH} characters.")
    if not _is_text(password):
        mistakes.append("Not valid text.")
    if password.casefold() in _common_passwords():
        mistakes.append("This is one of the passwords that are tried first.")
    elif _is_made_of(password, (config.app.name, *context_words)):
        mistakes.append("This is too close to your name, your address or the name of this site.")
    if mistakes:
        raise ValidationFailed(details={"json": {field: mistakes}})


def hash_password(password: str) -> str:
    """Hash a password for storage; takes some 200 ms at cost 12, so hold no transaction open."""
    salt = bcrypt.gensalt(current_config().auth.bcrypt_rounds)
    with on_any_processor():
        return bcrypt.hashpw(_prehash(password), salt).decode()


def verify_password(password: str, password_hash: str | None) -> bool:
    """Tell whether a password belongs to a hash; the work is the same whatever the answer.

    None, a malformed hash, and one of a lower cost than today's take as long as a good one.
    """
    secret = _prehash(password)
    rounds = current_config().auth.bcrypt_rounds
    cost = cost_of(password_hash)
    with on_any_processor():
        if password_hash is None or cost is None:
            bcrypt.checkpw(secret, _dummy(rounds))
            return False
        # 2^c + (2^c + 2^(c+1) + ... + 2^(r-1)) = 2^r: what a cheaper hash lacks to today's cost.
        for missing in range(cost, rounds):
            bcrypt.checkpw(secret, _dummy(missing))
        try:
            return bcrypt.checkpw(secret, password_hash.encode())
        except ValueError:
            return False


def is_outdated(password_hash: str) -> bool:
    """Tell whether a hash is cheaper than the configuration wants by now."""
    cost = cost_of(password_hash)
    return cost is not None and cost < current_config().auth.bcrypt_rounds


def cost_of(password_hash: str | None) -> int | None:
    """The cost that a hash was made with, or None when it is no bcrypt hash."""
    found = re.fullmatch(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}", password_hash or "")
    return int(found[1]) if found else None


def _prehash(password: str) -> bytes:
    """44 printable bytes that depend on every character: bcrypt raises beyond 72 bytes."""
    text = normalise(password).encode("utf-8", "surrogatepass")
    return b64encode(hmac.new(_PREHASH_KEY, text, hashlib.sha256).digest())


def _dummy(cost: int) -> bytes:
    return f"$2b${cost:02}${_DUMMY_REST}".encode()


def _is_text(password: str) -> bool:
    return "\0" not in password and not any("\ud800" <= char <= "\udfff" for char in password)


@cache
def _common_passwords() -> frozenset[str]:
    # No password has fewer than 8 characters, so the shorter ones needn't be remembered.
    lines = _COMMON.read_text(encoding="utf-8").splitlines()
    return frozenset(line.casefold() for line in lines if len(line) >= 8)


def _is_made_of(password: str, words: tuple[str | None, ...]) -> bool:
    """Tell whether a password is nothing but these words, digits and punctuation."""
    parts = set()
    for word in words:
        folded = normalise(word or "").casefold()
        # Of an address the whole counts and the part before the @; the provider's name doesn't.
        parts |= {folded, *re.split(r"[\W_\d]+", folded.partition("@")[0])}
    rest = password.casefold()
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SHORTEST_CONTEXT_WORD:
            rest = rest.replace(part, "")
    return rest != password.casefold() and not any(char.isalpha() for char in rest)
