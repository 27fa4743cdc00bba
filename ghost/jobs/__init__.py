"""Background work that loses nothing: the ledger in the database, RQ to carry it."""
