"""Text on its way out, without the white space that only surrounds markup.

White space that touches markup stays only where text stands on both sides of it; between two
pieces of markup it goes.
"""

from collections.abc import Callable


class Flow:
    """One of the two texts of a reply: content, or reasoning."""

    __slots__ = ("_at_boundary", "_emit", "_held", "_kept", "said")

    def __init__(self, emit: Callable[[str], None], at_boundary: bool) -> None:
        self._emit = emit
        self._held = ""  # white space that waits
        self._kept = ""  # of it, what stood before the markup
        self._at_boundary = at_boundary
        self.said = False  # whether anything was emitted

    def write(self, text: str) -> None:
        """Emits the text but for its trailing white space, which waits for what follows."""
        body = text.rstrip()
        if not body:
            self._held += text
            return
        if self._held:
            text = self._held + text
        elif len(body) == len(text) and not self._at_boundary:
            self.said = True
            self._emit(text)
            return
        self._flush(text)

    def _flush(self, text: str) -> None:
        if self._at_boundary and not self.said:
            text = text.lstrip()
        body = text.rstrip()
        self._held = text[len(body) :]
        self._at_boundary = False
        self.said = True
        self._emit(body)

    def boundary(self) -> None:
        """Markup was here; white space between two of it is part of it."""
        if self._at_boundary:
            self._held = self._kept
        else:
            self._kept = self._held
        self._at_boundary = True

    def finish(self) -> None:
        """No more text: white space at the very end is text unless markup touches it."""
        if self._held and not self._at_boundary:
            self._emit(self._held)
        self._held = ""
