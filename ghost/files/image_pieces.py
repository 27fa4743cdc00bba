"""The parts of a file that a decoder gets to see, as one file of their own."""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import BinaryIO

# A span of the file, or bytes that take the place of one.
Piece = range | bytes


class PiecesReader(RawIOBase):
    """The pieces of a file as one file of their own."""

    def __init__(self, file: BinaryIO, pieces: tuple[Piece, ...]) -> None:
        super().__init__()
        self._file = file
        self._pieces = pieces
        self._starts = []
        self._size = 0
        for piece in pieces:
            self._starts.append(self._size)
            self._size += len(piece)
        self._position = 0
        self._number = 0  # the piece that was read last: most reads go on in it

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        base = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read that many bytes, fewer only at the end."""
        left = self._size - self._position
        wanted = left if size is None or size < 0 else min(size, left)
        taken = []
        while wanted > 0:
            some = self._read_piece(wanted)
            if not some:
                break
            taken.append(some)
            wanted -= len(some)
            self._position += len(some)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _read_piece(self, wanted: int) -> bytes:
        number = self._number
        while self._starts[number] > self._position:
            number -= 1
        while self._position >= self._starts[number] + len(self._pieces[number]):
            number += 1
        self._number = number
        piece, inside = self._pieces[number], self._position - self._starts[number]
        if isinstance(piece, bytes):
            return piece[inside : inside + wanted]
        self._file.seek(piece.start + inside)
        return self._file.read(min(wanted, len(piece) - inside))
