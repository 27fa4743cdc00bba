"""Which storage the configuration names."""

from __future__ import annotations

from ghost.config import Config
from ghost.config_storage import FolderPlace, read_storage_url
from ghost.files.storage.base import Storage, StorageUnavailable
from ghost.files.storage.disk import DiskStorage


def open_storage(config: Config) -> Storage:
    """Make the storage that `storage.url` names; nothing is written yet.

    :raises StorageUnavailable: this kind can't be used here.
    """
    place = read_storage_url(config.storage.url)
    if isinstance(place, FolderPlace):
        return DiskStorage(place.path)
    raise StorageUnavailable
