"""Zstandard with limits: what is unpacked is never larger than its reader expects.

The window, which is what unpacking takes in memory, is bounded beside the result. A `prefix` is
content that both sides have: what repeats it costs next to nothing.

    packed = compress(content, 19, prefix=older)
    content = decompress(packed, limit=10_000_000, prefix=older)
"""

from __future__ import annotations

import sys
from typing import Any

from edgeinc.errors import UpdateError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_WINDOW_LOG = 27
"""128 MiB: what zstd's own readers take by default, more than any of our files needs."""
_HINT = "fetch it again; if it stays so, the publisher has to make it again"


def compress(data: bytes, level: int, *, prefix: bytes = b"") -> bytes:
    """One frame with its length in it.

    Args:
        data: The content.
        level: 1 (fast) to 22 (small).
        prefix: What the reader has.
    """
    parameter = zstd.CompressionParameter
    window = _window_log(len(data) + len(prefix))
    options: dict[int, int] = {parameter.compression_level: level, parameter.window_log: window}
    packed: bytes = zstd.compress(data, options=options, zstd_dict=_prefix(prefix))
    return packed


def decompress(data: bytes | memoryview, *, limit: int, prefix: bytes = b"") -> bytes:
    """The content of one frame.

    Args:
        data: What `compress` made, and nothing behind it.
        limit: Bytes that it may have unpacked.
        prefix: What `compress` was given.

    Raises:
        UpdateError: It is damaged, is larger than the limit, or wants a larger window.
    """
    window = _window_log(limit + len(prefix))
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: window}
    reader = zstd.ZstdDecompressor(zstd_dict=_prefix(prefix), options=options)
    try:
        content: bytes = reader.decompress(data, max_length=limit + 1)
    except (zstd.ZstdError, EOFError, MemoryError) as err:
        raise UpdateError(f"packed content is damaged: {err}", hint=_HINT) from err
    if len(content) > limit:
        raise UpdateError(f"packed content is larger than the {limit} bytes expected", hint=_HINT)
    if not reader.eof or reader.unused_data:
        what = "ends too early" if not reader.eof else "has something behind its end"
        raise UpdateError(f"packed content {what}", hint=_HINT)
    return content


def _window_log(size: int) -> int:
    """Of a window over everything, so that the whole prefix can be repeated."""
    return min(MAX_WINDOW_LOG, max(17, size.bit_length()))


def _prefix(content: bytes) -> Any:
    return zstd.ZstdDict(content, is_raw=True).as_prefix if len(content) >= 8 else None
