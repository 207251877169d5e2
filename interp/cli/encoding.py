"""Text for streams of any encoding: no command ends because a terminal or a file lacks a character."""

import codecs
import io
import sys

__all__ = ["print_anything"]

_NEAR = {
    "•": "*", "·": "-", "–": "-", "−": "-", "“": '"', "”": '"', "≥": ">=", "≤": "<=",
    "─": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
}  # fmt: skip
"""Near characters of ASCII, for signs that this program prints."""


def print_anything() -> None:
    """Let standard output and standard error take any text, whatever their encoding.

    A character that the encoding lacks is replaced by a near one or by its number, and an undecodable byte of a file
    name is written as that byte. Streams that are no files, such as a notebook's, take any text already.
    """
    codecs.register_error("interp", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="interp")


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes in the place of the characters that could not be encoded, and the position behind them.

    >>> codecs.register_error("interp", _replaced)
    >>> "• 1–2 ß \\udcff".encode("ascii", "interp")
    b'* 1-2 \\\\xdf \\xff'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return b"".join(map(_bytes_of, wrong)), error.end


def _bytes_of(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # as Python decodes a byte that is no text, in a file name
        return bytes([ord(character) - 0xDC00])
    return _NEAR.get(character, character).encode("ascii", "backslashreplace")
