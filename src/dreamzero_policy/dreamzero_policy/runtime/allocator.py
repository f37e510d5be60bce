"""How this process's C library treats memory that is freed.

glibc gives large blocks back to the system at once and asks for them again a millisecond later; the system hands every
page out zeroed, on first touch. Code that makes arrays of a megabyte in a loop spends more time on that than on
arithmetic: resizing a camera image took 2.6 ms, 1.0 ms of it its own work.
"""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
KEPT_BYTES = 256 << 20  # free memory at the end of the heap that is kept
LARGEST_BYTES = 32 << 20  # of a block that comes from the heap; glibc's own upper bound
GROWTH_BYTES = 16 << 20  # the heap grows by so much at once


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation. False where the C library is not glibc: nothing is changed then."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, GROWTH_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
