"""What the readers, decompressors and deserialisers of bags raise for damaged bytes.

These kinds are raised for much else, so they are caught around one step into these libraries at a time and never around
code of this project.
"""

import sqlite3
import struct
import sys

import apsw
import zstandard
from mcap.exceptions import McapError
from rosbags.highlevel import AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import TypesysError

if sys.version_info >= (3, 14):  # as rosbags chooses
    from compression.zstd import ZstdError
else:
    from backports.zstd import ZstdError

DAMAGED = (AnyReaderError, ReaderError, SerdeError, TypesysError, McapError, struct.error)
DAMAGED += (ZstdError, zstandard.ZstdError, sqlite3.Error, apsw.Error)
DAMAGED += (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    MemoryError,
    AssertionError,
)
