"""Proving who one is: passwords, sessions, tokens, and the mails that confirm them."""
