"""Whether a compressed picture is whole.

Some builds of OpenCV fill in what a cut-off one lacks, with grey, and say nothing; others refuse it. Here all do.
"""

JPEG_BEGIN, JPEG_END = b"\xff\xd8", b"\xff\xd9"  # SOI and EOI, ITU-T T.81 table B.1
PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"  # signature, and the last chunk with its checksum
CUT_OFF = "camera {camera}: compressed image of format {form!r}, {count} bytes, is cut off: its end marker is missing"
PADDING = 64  # bytes of zeros that a sender may leave behind the end


def is_cut_off(data: bytes | bytearray | memoryview) -> bool:
    """Whether a JPEG or PNG lacks its end. Other formats count as whole."""
    begin, end = bytes(data[: len(PNG_BEGIN)]), bytes(data[-PADDING:]).rstrip(b"\0")
    if begin.startswith(JPEG_BEGIN):
        return not end.endswith(JPEG_END)
    return begin == PNG_BEGIN and not end.endswith(PNG_END)
