"""Backups of a server's data that are checked, rehearsed, and bring the data back."""
