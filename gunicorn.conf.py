"""Settings of gunicorn: Ghost's own. What is set below the import, or by an option, wins."""

from ghost.server import *
