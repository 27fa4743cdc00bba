"""Ghost: the backend every product needs before its own first line."""
