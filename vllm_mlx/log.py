"""How the server logs: one line a record, to stderr. What is logged is decided where it happens."""

import logging

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# These say at INFO what only a debugging person wants to read.
CHATTY = ("httpx", "httpcore", "filelock", "urllib3", "asyncio")


def configure_logging(level: str) -> None:
    """Send every logger's records at ``level`` and above to stderr, once."""
    logging.basicConfig(level=level.upper(), format=FORMAT, datefmt="%H:%M:%S", force=True)
    quiet = logging.DEBUG if level == "debug" else logging.WARNING
    for name in CHATTY:
        logging.getLogger(name).setLevel(quiet)
