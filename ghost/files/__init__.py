"""Uploads: where they lie, who may see them, and the pictures among them."""
