"""The HTTP surface: Falcon, headers, status codes, bytes. Every URL is in ``app.py``."""
