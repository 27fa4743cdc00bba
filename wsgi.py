"""The application as gunicorn, flask and rq load it."""

from ghost import create_app

app = create_app()
