"""Reading a file from elsewhere: regular files only, and only up to a size.

A pipe would be waited for and a device has no end, so neither is opened for reading. Owns no
format; the caller says how large it may be.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MIB = 1 << 20


def read_limited(path: Path, *, limit_bytes: int) -> bytes:
    """Return the content of a regular file of at most `limit_bytes`; links are followed.

    Raises:
        OSError: it is missing, refused by the system, no regular file, or larger.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe waits for a writer that never comes.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except ValueError as error:  # a null character in the name
        raise FileNotFoundError(errno.ENOENT, str(error)) from None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(handle, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(handle)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {limit_bytes / MIB:,.0f} MiB")
    return data


def reason_of(error: OSError) -> str:
    """Return why a file cannot be read, in a few words."""
    return error.strerror or str(error) or type(error).__name__
