"""Whether a compressed picture is whole.

Some builds of OpenCV fill in what a cut-off one lacks, with grey, and say nothing; others refuse it. Here all do.
"""

JPEG_BEGIN, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"  # SOI, SOS, EOI: ITU-T T.81 table B.1
PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"  # signature, and the last chunk with its checksum
CUT_OFF = "camera {camera}: compressed image of format {form!r}, {count} bytes, is cut off: its end marker is missing"


def is_cut_off(data: bytes | bytearray | memoryview) -> bool:
    """Whether a JPEG or PNG lacks its end. What a sender leaves behind the end does not count, nor do other formats."""
    whole = bytes(data)
    if whole.startswith(JPEG_BEGIN):
        # Neither marker can stand in a scan's data. An end before the last scan is that of a thumbnail, or of nothing.
        return whole.rfind(JPEG_END) <= whole.rfind(JPEG_SCAN)
    return whole.startswith(PNG_BEGIN) and PNG_END not in whole
