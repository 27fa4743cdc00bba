"""What Alembic runs for every `flask db` command; Ghost does the work."""

from ghost.revisions import run

run()
