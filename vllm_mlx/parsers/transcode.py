"""One value of a model's notation -> the same value as JSON text, piece by piece.

Valid JSON passes unchanged, white space included. Python's literals, single quotes, trailing
commas, bare keys, raw line breaks and unknown escapes become JSON. Markers are not known here.
"""

import re
from typing import Literal

from vllm_mlx.parsers.notation import Notation, escape, word_to_json
from vllm_mlx.parsers.scanner import markers_of

Status = Literal["open", "done", "failed"]


_VALUE, _KEY, _COLON, _AFTER, _STRING, _WORD = range(6)
_SPACE = re.compile(r"[ \t\r\n]+")
_WORD_RUN = re.compile(r"[^\s,:\[\]{}()\"'<=]+")
_PLAIN = {
    '"': re.compile(r'[^"\\\x00-\x1f]+'),
    "'": re.compile(r"[^'\"\\\x00-\x1f]+"),
    "<": re.compile(r'[^<"\\\x00-\x1f]+'),
}
_KEPT_ESCAPES = frozenset('"\\/bfnrt')
_HEX_DIGITS = {"u": 4, "x": 2, "U": 8}
_CLOSER = {"{": "}", "[": "]", "(": "]"}
_OPEN_OF = {"}": "{", "]": "[", ")": "("}


class Transcoder:
    """Reads one value. ``feed`` until ``status`` is done or failed; take the JSON from ``take``."""

    __slots__ = ("_expect", "_notation", "_out", "_pending", "_plain", "_quote", "_quotes",
                 "_stack", "status")  # fmt: skip

    def __init__(self, notation: Notation) -> None:
        self.status: Status = "open"
        self._notation = notation
        self._quotes = markers_of(*notation.quotes)
        self._out: list[str] = []
        self._stack: list[str] = []  # "{", "[" or "("
        self._expect = _VALUE
        self._pending = ""  # a comma and white space, dropped if the container closes
        self._quote = ""
        self._plain = _PLAIN['"']

    @property
    def in_string(self) -> bool:
        """Whether the text read so far ends inside a string."""
        return self._expect == _STRING

    def take(self) -> str:
        """The JSON text since the last take."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def take_held(self) -> str:
        """The comma and white space that waited for a next item, where it will not come."""
        held, self._pending = self._pending, ""
        return held

    def feed(self, text: str, pos: int, ended: bool) -> int:
        """Consumes from ``pos`` what can be decided; returns where it stopped.

        Stopping before the end with status open means more text is needed. On failure the
        stop is at the first character that cannot be.
        """
        while pos < len(text) and self.status == "open":
            if self._expect == _STRING:
                after = self._string(text, pos, ended)
            else:
                space = _SPACE.match(text, pos)
                if space is not None:
                    self._white(space.group())
                    pos = space.end()
                    continue
                after = self._structure(text, pos, ended)
            if after == pos:
                break
            pos = after
        return pos

    # ------------------------------------------------------------------ for repairs
    @property
    def wants_value(self) -> bool:
        """Whether a value would have to follow."""
        return self._expect == _VALUE

    @property
    def wants_separator(self) -> bool:
        """Whether a comma or a closing bracket would have to follow."""
        return self._expect == _AFTER

    @property
    def innermost(self) -> str:
        """The bracket that is open, or ""."""
        return self._stack[-1] if self._stack else ""

    def last_quote(self, text: str, stop: int) -> int:
        """Where the value before ``stop`` closed its string; -1 if it was no string."""
        place = len(text[:stop].rstrip()) - 1
        return place if place >= 0 and text[place] in "\"'" else -1

    def closing(self) -> str | None:
        """What an unfinished value still needs; None where that is not known."""
        stack, text = list(self._stack), ""
        if self._expect == _STRING:
            text = '"'
            if stack.pop() == "k":
                text += ": null"
        elif self._expect == _COLON:
            text = ": null"
        elif self._expect == _VALUE and stack and stack[-1] == "{":
            text = "null"
        if not stack and not text:
            return None
        return text + "".join(_CLOSER[one] for one in reversed(stack))

    # ------------------------------------------------------------------ structure
    def _white(self, space: str) -> None:
        if self._pending:
            self._pending += space
        elif self._stack:
            self._out.append(space)

    def _structure(self, text: str, pos: int, ended: bool) -> int:
        char = text[pos]
        expect = self._expect
        if expect == _AFTER:
            if char == ",":
                self._pending = ","
                self._expect = _KEY if self._stack[-1] == "{" else _VALUE
                return pos + 1
            return self._close(char, pos)
        if expect == _COLON:
            if char != ":":
                return self._fail(pos)
            self._out.append(":")
            self._expect = _VALUE
            return pos + 1
        if expect == _KEY and char == "}":
            return self._close(char, pos)
        if expect == _VALUE:
            if char in "{[" or (char == "(" and self._notation.tuples):
                return self._open(char, pos)
            if char in "])" and self._stack and self._stack[-1] != "{":
                return self._close(char, pos)
        return self._scalar(text, pos, ended)

    def _scalar(self, text: str, pos: int, ended: bool) -> int:
        quotes = self._quotes
        tail = text[pos:] if len(text) - pos < quotes.longest_chars else ""
        if not ended and tail and tail in quotes.prefixes:
            return pos
        if (hit := quotes.match_at(text, pos)) is not None:
            self._begin('"')
            self._quote = hit.group()
            self._plain = _PLAIN[self._quote[0]]
            # a string may stand for a key: what follows it is decided when it closes
            self._stack.append("k" if self._expect == _KEY else "v")
            self._expect = _STRING
            return hit.end()
        return self._word(text, pos, ended)

    def _word(self, text: str, pos: int, ended: bool) -> int:
        run = _WORD_RUN.match(text, pos)
        if run is None:
            return self._fail(pos)
        if run.end() == len(text) and not ended:
            return pos
        word = run.group()
        if self._expect == _KEY:
            self._begin(f'"{escape(word)}"')
            self._expect = _COLON
            return run.end()
        value = word_to_json(word)
        if value is None:
            return self._fail(pos)
        self._begin(value)
        self._value_over()
        return run.end()

    def _begin(self, text: str) -> None:
        if self._pending:
            self._out.append(self._pending)
            self._pending = ""
        self._out.append(text)

    def _open(self, char: str, pos: int) -> int:
        self._begin("[" if char == "(" else char)
        self._stack.append(char)
        self._expect = _KEY if char == "{" else _VALUE
        return pos + 1

    def _close(self, char: str, pos: int) -> int:
        if _OPEN_OF.get(char) != self._stack[-1]:
            return self._fail(pos)
        if self._pending:
            self._out.append(self._pending[1:])  # its white space, without the comma
            self._pending = ""
        self._out.append(_CLOSER[self._stack.pop()])
        self._value_over()
        return pos + 1

    def _value_over(self) -> None:
        self._expect = _AFTER
        if not self._stack:
            self.status = "done"

    def _fail(self, pos: int) -> int:
        self.status = "failed"
        return pos

    # ------------------------------------------------------------------ strings
    def _string(self, text: str, pos: int, ended: bool) -> int:
        plain = self._plain.match(text, pos)
        if plain is not None:
            self._out.append(plain.group())
            return plain.end()
        quote = self._quote
        if text.startswith(quote, pos):
            return self._string_over(pos)
        if not ended and quote.startswith(text[pos:]):
            return pos
        char = text[pos]
        if char == "\\" and self._notation.escapes:
            return self._escape(text, pos, ended)
        self._out.append(char if char in "'<" else escape(char))
        return pos + 1

    def _string_over(self, pos: int) -> int:
        self._out.append('"')
        if self._stack.pop() == "k":
            self._expect = _COLON
        else:
            self._value_over()
        return pos + len(self._quote)

    def _escape(self, text: str, pos: int, ended: bool) -> int:
        kind = text[pos + 1 : pos + 2]
        if not kind:
            if not ended:
                return pos
            self._out.append("\\\\")
            return pos + 1
        if kind in _KEPT_ESCAPES:
            self._out.append(text[pos : pos + 2])
            return pos + 2
        if kind in _HEX_DIGITS:
            return self._hex(text, pos, ended, kind)
        if kind == "'":
            self._out.append(kind)
            return pos + 2
        self._out.append("\\\\")  # not an escape: a backslash that was meant as one
        return pos + 1

    def _hex(self, text: str, pos: int, ended: bool, kind: str) -> int:
        end = pos + 2 + _HEX_DIGITS[kind]
        digits = text[pos + 2 : end]
        if not all(c in "0123456789abcdefABCDEF" for c in digits) or (ended and len(text) < end):
            self._out.append("\\\\")
            return pos + 1
        if len(text) < end:
            return pos
        if kind == "u":
            self._out.append(text[pos:end])
        else:
            code = int(digits, 16)
            self._out.append(escape(chr(code)) if code <= 0x10FFFF else "\ufffd")
        return end


def transcode(text: str, notation: Notation) -> str | None:
    """A whole value as JSON; None if it is not one value and nothing else."""
    value = Transcoder(notation)
    stop = value.feed(text, 0, ended=True)
    return value.take() if value.status == "done" and not text[stop:].strip() else None
