"""The least parsing a streamed HTTP answer needs: the client may share the server's cores."""

from __future__ import annotations

from freehold.domain.errors import ServerMisbehaved

# No chunk's length line and no event is this long where a server means well.
MAX_LINE = 4 * 1024 * 1024


class Chunked:
    """The body of a chunked HTTP message, fed in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """What ``data`` adds to the body. Raises `ServerMisbehaved` for a length that is none."""
        self._buffer += data
        body = bytearray()
        while not self.ended:
            if self._left:
                part = self._buffer[: self._left]
                if not part:
                    break
                del self._buffer[: len(part)]
                body += part
                self._left -= len(part)
                continue
            end = self._buffer.find(b"\r\n")
            if end < 0:
                _require_short(self._buffer)
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            if line:  # an empty one ends the chunk before
                self._left = _length(line)
                self.ended = self._left == 0
        return bytes(body)


def _length(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        length = int(digits, 16)
    except ValueError:
        length = -1
    if length < 0:
        raise ServerMisbehaved("The server's answer is no chunked HTTP message.")
    return length


def _require_short(line: bytes | bytearray) -> None:
    if len(line) > MAX_LINE:
        raise ServerMisbehaved(f"The server sent a line of more than {MAX_LINE} bytes.")


class Events:
    """The data of server-sent events, one line each, fed in any pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data lines that ``data`` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        _require_short(self._rest)
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
