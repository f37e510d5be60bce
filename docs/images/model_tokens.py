"""Draws model_tokens.svg: the tokens of one prediction and what each may look at.

Run from the repository root: .venv/bin/python docs/images/model_tokens.py
"""

from pathlib import Path

INK, SOFT, CAMERA = "#1b2733", "#5b6b7a", "#dfe7ee"
CLEAN, NOISY, ACTION, STATE = "#bcd7ee", "#f4d9a8", "#f0b8a8", "#c9dfbf"
TOP, HEIGHT = 96, 52  # of the row of tokens
svg: list[str] = []


def box(x: float, y: float, w: float, h: float, fill: str, stroke: str = INK) -> None:
    svg.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{fill}" stroke="{stroke}"/>')


def text(x: float, y: float, words: str, colour: str = SOFT, bold: bool = False) -> None:
    weight = "bold" if bold else "normal"
    style = f'font-size="12" fill="{colour}" text-anchor="middle" font-weight="{weight}"'
    svg.append(f'<text x="{x}" y="{y}" {style}>{words}</text>')


def arrow(*points: tuple[float, float], dashed: bool = False) -> None:
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    svg.append(
        f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.3"{dash} marker-end="url(#tip)"/>'
    )


def cameras() -> None:
    text(85, 82, "canvas", INK, bold=True)
    for x, y, name, fill in (
        (20, TOP - 6, "head", CAMERA),
        (85, TOP - 6, "right", CAMERA),
        (20, TOP + 34, "left", CAMERA),
        (85, TOP + 34, "", "#222222"),
    ):
        box(x, y, 65, 40, fill)
        text(x + 32, y + 25, name)
    text(85, 186, "8 frames a block,")
    text(85, 202, "2 latent frames")
    arrow((154, TOP + 26), (192, TOP + 26))


def sequence() -> None:
    x = 200.0
    for name, frames in (("first", 1), ("block 1", 2), ("block 2", 2), ("block 3", 2)):
        for i in range(frames):
            box(x + 42 * i, TOP, 40, HEIGHT, CLEAN)
        text(x + 21 * frames, TOP + 68, name)
        x += 42 * frames + 12
    text(364, 186, "the memory: what cameras really saw,", INK, bold=True)
    text(364, 202, "kept as keys and values, written at t = 0")
    for i in range(2):
        box(590 + 42 * i, TOP, 40, HEIGHT, NOISY)
    for i in range(24):
        box(690 + 9 * i, TOP, 9, HEIGHT, ACTION, "#ffffff")
    box(922, TOP, 26, HEIGHT, STATE)
    text(631, TOP + 68, "video")
    text(798, TOP + 68, "24 actions")
    text(935, TOP + 68, "state")


def who_sees_whom() -> None:
    svg.append(f'<path d="M590 {TOP - 8} v-8 h358 v8" fill="none" stroke="{INK}" stroke-width="1.3"/>')
    arrow((769, TOP - 16), (769, 52), (364, 52), (364, TOP - 8))
    text(566, 30, "All of a chunk sees itself and the memory. The memory never sees a chunk.", INK, bold=True)


def outcome() -> None:
    arrow((631, TOP + 76), (631, 222))
    arrow((798, TOP + 76), (798, 222))
    text(631, 240, "the dream", INK, bold=True)
    text(631, 256, "decoded only to be seen")
    text(820, 240, "24 joint targets", INK, bold=True)
    text(820, 256, "the reference of the coming time")
    arrow((550, 250), (85, 250), (85, 212), dashed=True)
    text(320, 268, "the robot moves, new frames come in, the dream is thrown away")


cameras()
sequence()
who_sees_whom()
outcome()
Path(__file__).with_suffix(".svg").write_text(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 970 282" font-family="Helvetica, Arial, sans-serif">\n'
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>\n'
    '<rect width="970" height="282" fill="#ffffff"/>\n' + "\n".join(svg) + "\n</svg>\n"
)
