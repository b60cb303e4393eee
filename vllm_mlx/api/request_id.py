"""The ids of requests: the client's ``x-request-id`` where it is sane, and the answers' own."""

import re
import uuid
from collections.abc import Iterable

HEADER = b"x-request-id"
SANE = re.compile(r"[\x21-\x7e]{1,128}")


def read_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's id if it is short printable ASCII, else a new one."""
    for name, value in headers:
        if name == HEADER:
            text = value.decode("latin-1")
            return text if SANE.fullmatch(text) else new_id("req")
    return new_id("req")


def new_id(prefix: str) -> str:
    """``prefix-`` and 32 hexadecimal digits."""
    return f"{prefix}-{uuid.uuid4().hex}"
