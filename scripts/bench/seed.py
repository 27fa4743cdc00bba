"""Fill an empty database with the benchmark's users (BENCH_USERS_JSON, BENCH_PASSWORD)."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from uuid import UUID

import flask_migrate
import sqlalchemy as sa

from ghost import create_app, db
from ghost.passwords import hash_password
from ghost.users.models import User, UserRole

ROLES = {"admin": "ADMIN", "user": "USER"}


def main() -> None:
    """Migrate, empty the accounts, and insert the seeded ones with our kind of hash."""
    app = create_app({"database": {"url": os.environ["GHOST_BENCH_DATABASE_URL"]}})
    people = json.loads(Path(os.environ["BENCH_USERS_JSON"]).read_text())
    password_hash = hash_password(os.environ["BENCH_PASSWORD"])
    with app.app_context():
        flask_migrate.upgrade()
        db.session.execute(sa.delete(User))
        db.session.execute(sa.insert(User), [_row(person, password_hash) for person in people])
        db.session.execute(
            sa.insert(UserRole),
            [{"user_id": UUID(p["id"]), "role_name": ROLES[p["role"]]} for p in people],
        )
        db.session.commit()
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
    print(f"{len(people)} users")


def _row(person: dict[str, str], password_hash: str) -> dict[str, object]:
    return {
        "id": UUID(person["id"]),
        "email": person["email"],
        "username": person["username"],
        "username_key": person["username"],
        "full_name": person["full_name"],
        "is_active": person["is_active"],
        "is_verified": person["is_verified"],
        "created_at": datetime.fromisoformat(person["created_at"]),
        "updated_at": datetime.fromisoformat(person["updated_at"]),
        "password_hash": password_hash,
        "session_epoch": 1,
        "version": 1,
    }


if __name__ == "__main__":
    main()
