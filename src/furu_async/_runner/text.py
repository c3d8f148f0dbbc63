"""Bounding and escaping of text that user code made: messages, log records, tails of output."""

from __future__ import annotations

MESSAGE_BYTES = 8 * 1024
TRACEBACK_BYTES = 32 * 1024
TAIL_BYTES = 4 * 1024
TAIL_LINES = 20

_CONTROL = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
_ONE_LINE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROL}
_ONE_LINE |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_LINES = {code: text for code, text in _ONE_LINE.items() if code not in (ord("\n"), ord("\t"))}


def one_line(text: str) -> str:
    """Escape everything that would start a new line or talk to a terminal; also lone surrogates."""
    return encodable(text).translate(_ONE_LINE)


def lines(text: str) -> str:
    """The same, but newlines and tabs stay."""
    return encodable(text).translate(_LINES)


def encodable(text: str) -> str:
    """Replace what UTF-8 cannot hold (lone surrogates) by its escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def bounded(text: str, limit: int) -> str:
    """Cut the middle out of a text of more than ``limit`` bytes; a quarter of what stays is its beginning."""
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return text
    note = f"\n… {len(data) - limit} bytes left out …\n"
    room = limit - len(note.encode())
    head, rest = data[: room // 4], data[-(room - room // 4) :]
    return head.decode("utf-8", "ignore") + note + rest.decode("utf-8", "ignore")


def tail(data: bytes) -> str:
    """The last lines of some output, for a failure: at most `TAIL_LINES` and `TAIL_BYTES`.

    Of a line that overwrote itself with carriage returns (progress bars) the last state is shown.
    """
    cut = data[-TAIL_BYTES:]
    text = cut.decode("utf-8", "replace")
    if len(data) > TAIL_BYTES and "\n" in text.rstrip("\n"):
        text = text.partition("\n")[2]
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
    return lines("\n".join(shown[-TAIL_LINES:]))[-TAIL_BYTES:]
