"""A local file that is copied into a store: what may be read as one, and what went wrong in words."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from agentq.errors import Invalid

CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_source(path: Path) -> BinaryIO:
    """The file, unbuffered; raises Invalid when it is not a readable regular file."""
    # No link is followed: an agent's output must not smuggle another file of this machine into the store.
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise Invalid(f"cannot read the file {path}: {why}") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    raise Invalid(f"cannot read the file {path}: it is not a regular file")


def read_source(source: BinaryIO, path: Path, size: int = CHUNK) -> bytes:
    """Up to so many bytes of it, none at its end; raises Invalid when it cannot be read."""
    try:
        return source.read(size)
    except OSError as error:
        raise Invalid(f"cannot read the file {path}: {error.strerror}") from error
