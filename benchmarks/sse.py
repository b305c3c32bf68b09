"""The least parsing a streamed HTTP answer needs: the clients share the servers' cores."""

from __future__ import annotations


class Chunked:
    """The body of a chunked HTTP message, fed in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """What ``data`` adds to the body."""
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
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            if line:  # an empty one ends the chunk before
                self._left = int(line.partition(b";")[0], 16)
                self.ended = self._left == 0
        return bytes(body)


class Events:
    """The data of server-sent events, one line each, fed in any pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data lines that ``data`` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
