"""Which storage the configuration names."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from loguru import logger

from ghost.config import Config
from ghost.config_storage import BucketPlace, FolderPlace, read_storage_url
from ghost.files.storage.base import Storage, StorageUnavailable
from ghost.files.storage.disk import DiskStorage


def open_storage(config: Config) -> Storage:
    """Make the storage that `storage.url` names; nothing is written or sent yet.

    :raises StorageUnavailable: this kind can't be used here; the log says why.
    """
    settings = config.storage
    place = read_storage_url(settings.url)
    if isinstance(place, FolderPlace):
        # nginx, which sends the files then, is of the folder's group.
        return DiskStorage(place.path, is_group_readable=bool(settings.accel_redirect))
    return _open_bucket(place, settings.timeout)


def _open_bucket(place: BucketPlace, timeout: float) -> Storage:
    try:
        objects = import_module("ghost.files.storage.objects")
    except ImportError as error:
        logger.error("a bucket needs obstore, which `pip install 'ghost[cloud]'` brings")
        raise StorageUnavailable from error
    return cast(Storage, objects.open_bucket(place, timeout))
