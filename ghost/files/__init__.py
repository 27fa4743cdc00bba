"""Uploads: where they lie, who may see them, and the pictures among them."""

from ghost.files.models import FileUsage, FileVariant, StoredFile, Upload
from ghost.files.scanning import FileRejected, scanner
from ghost.files.services import store as store_file
from ghost.files.signals import file_stored

__all__ = [
    "FileRejected",
    "FileUsage",
    "FileVariant",
    "StoredFile",
    "Upload",
    "file_stored",
    "scanner",
    "store_file",
]
