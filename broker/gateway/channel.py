"""The ssh side of a forward: asyncssh's channel, with limits that asyncssh lacks.

By itself asyncssh keeps each packet that waits as an object of its own, a hundred bytes for one, and gives a client its
whole window again as soon as the channel's owner has been handed the data.
"""

from __future__ import annotations

import asyncssh
from asyncssh.packet import UInt32

FIRST_WINDOW_BYTES = 64 * 1024
"""The window of a new channel: two of OpenSSH's largest packets."""


class Channel(asyncssh.SSHTCPChannel[bytes]):
    """A channel that passes all data at once. Its session opens the window itself."""

    @property
    def window(self) -> int:
        """Number of bytes that the client may send."""
        return self._recv_window

    def open_window(self, size: int) -> None:
        """Let the client send `size` bytes."""
        more = size - self._recv_window
        if more > 0:
            self._recv_window = size
            self.send_packet(asyncssh.constants.MSG_CHANNEL_WINDOW_ADJUST, UInt32(more))

    def write(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Send it, or keep it in one piece with what waits for the client to open its window."""
        if self._send_buf and self._send_state == "open":
            self._send_buf[-1][0].extend(data)
            self._send_buf_len += len(data)
            self._flush_send_buf()
        else:
            super().write(data, datatype)

    def _accept_data(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        if self._session is not None and self._send_state not in {"close_pending", "closed"}:
            self._recv_window -= len(data)
            self._session.data_received(data, datatype)
