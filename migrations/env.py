"""What Alembic runs for every `flask db` command; Ghost does the work."""

from ghost.migrate import run

run()
