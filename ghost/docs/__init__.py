"""The documentation of the API, served by itself: OpenAPI, Swagger UI, ReDoc."""
