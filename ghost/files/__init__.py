"""Uploads: where they lie, who may see them, and the pictures among them."""

from ghost.files.models import FileUsage, FileVariant, StoredFile, Upload
from ghost.files.scanning import Rejected, scanner
from ghost.files.services import store
from ghost.files.signals import file_stored

__all__ = [
    "FileUsage",
    "FileVariant",
    "Rejected",
    "StoredFile",
    "Upload",
    "file_stored",
    "scanner",
    "store",
]
