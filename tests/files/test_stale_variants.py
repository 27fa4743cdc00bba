"""Variants go with their file, and when the configuration does not name them any more."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from photographs import photo
from stored_files import FileFactory

from ghost.config import current_config
from ghost.config_storage import VariantSetting
from ghost.database import db, db_manager
from ghost.errors import NotFound
from ghost.files import sweep, variant_rows
from ghost.files.models import PUBLIC, FileVariant, StoredFile
from ghost.files.storage import current_storage
from ghost.files.variant_rows import Wanted
from ghost.models import utcnow, uuid7
from ghost.testing.clients import Client

pytestmark = pytest.mark.integration

DAYS = timedelta(days=2)


@pytest.fixture
def stored_photo(client: Client, make_file: FileFactory) -> StoredFile:
    """With two variants that are made."""
    file = make_file(
        photo("JPEG"), filename="harbour.jpg", content_type="image/jpeg", category="image",
        visibility=PUBLIC, width=240, height=160,
    )  # fmt: skip
    for variant in ("thumb", "small"):
        assert client.get(f"/api/v1/files/{file.id}/images/{variant}").status_code == 200
    return file


def names() -> list[str]:
    return sorted(db.session.scalars(sa.select(FileVariant.name)))


def keys() -> set[str]:
    return {found.key for found in current_storage().list()}


def test_variants_are_purged_with_their_file(app: Flask, stored_photo: StoredFile) -> None:
    with app.app_context():
        assert len(keys()) == 3
        with db_manager.session() as session:
            session.get_one(StoredFile, stored_photo.id).deleted_at = utcnow()

        assert sweep.purge_deleted(utcnow() + DAYS) == 1

        assert names() == []
        assert keys() == set()


def test_the_bytes_of_variants_are_no_orphans(app: Flask, stored_photo: StoredFile) -> None:
    with app.app_context():
        assert sweep.sweep_portion(utcnow() + DAYS).orphans == 0
        assert len(keys()) == 3


def test_bytes_of_a_variant_that_no_row_names_are_orphans(
    app: Flask, stored_photo: StoredFile
) -> None:
    with app.app_context():
        orphan = f"variants/2026/11/{uuid7()}"
        with current_storage().create(orphan, "image/jpeg") as writer:
            writer.write(b"x")
            writer.commit()

        assert sweep.sweep_portion(utcnow() + DAYS).orphans == 1
        assert orphan not in keys()


def test_variants_of_a_former_size_go_after_a_day(
    app: Flask, stored_photo: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context():
        assert sweep.delete_stale_variants(utcnow() + DAYS) == 0
        monkeypatch.setitem(current_config().storage.variants, "thumb", VariantSetting(9, 9))

        assert sweep.delete_stale_variants(utcnow()) == 0
        assert sweep.delete_stale_variants(utcnow() + DAYS) == 1

        assert names() == ["small:320x320-inside"]
        assert len(keys()) == 2


def test_variants_of_a_format_that_is_not_offered_any_more_go(
    app: Flask, stored_photo: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context():
        monkeypatch.setattr(sweep, "BATCH", 1)
        with db_manager.session() as session:
            session.execute(sa.update(FileVariant).values(content_type="image/avif"))

        assert sweep.delete_stale_variants(utcnow() + DAYS) == 1
        assert sweep.delete_stale_variants(utcnow() + DAYS) == 1
        assert sweep.delete_stale_variants(utcnow() + DAYS) == 0


def test_claims_that_came_to_nothing_go(app: Flask, stored_photo: StoredFile) -> None:
    with app.app_context():
        for content_type in ("image/webp", "image/avif"):
            name = variant_rows.stored_name("thumb", current_config().storage.variants["thumb"])
            claimed = variant_rows.claim(Wanted(stored_photo.id, name, content_type), 60)
            assert claimed is not None
            if content_type == "image/avif":
                variant_rows.give_up(claimed)

        assert sweep.delete_stale_variants(utcnow() + timedelta(hours=23)) == 0
        assert sweep.delete_stale_variants(utcnow() + DAYS + DAYS) == 2
        assert len(names()) == 2


def test_no_variant_is_claimed_of_a_file_that_is_gone(app: Flask) -> None:
    with app.app_context(), pytest.raises(NotFound):
        variant_rows.claim(Wanted(uuid7(), "thumb:1x1-inside", "image/jpeg"), 60)
