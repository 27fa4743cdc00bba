"""Accounts and their rights: who exists, who may do what, and the rules between administrators."""
