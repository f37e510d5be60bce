"""Draws model_flow.svg: sampling as integrating a differential equation from noise to data.

Left: a one-dimensional world in which the right answer is -1 or +1. Its exact velocity field is known in closed form;
the paths are those of the product's own solver and schedule. Right: the noise levels of video and action in 4 steps, as
usual and with the video stopping early (Flash).
Run from the repository root: .venv/bin/python docs/images/model_flow.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamzero_policy.model.flow import Solver, evaluated_steps, sampling_schedule

INK, SOFT, VIDEO, ACTION = "#1b2733", "#5b6b7a", "#c98a1b", "#c4553b"
ANSWERS, SPREAD = torch.tensor([-1.0, 1.0]), 0.12  # of the toy's data
svg: list[str] = []
Scale = Callable[[float], float]


def velocity(x: Tensor, sigma: float) -> Tensor:
    """E[noise - data | x] for data of two narrow bumps and x = (1 - sigma) data + sigma noise."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    away = x[:, None] - (1 - sigma) * ANSWERS
    belief = torch.softmax(-(away**2) / (2 * variance), dim=1)
    data = ANSWERS + (1 - sigma) * SPREAD**2 / variance * away
    noise = sigma / variance * away
    return (belief * (noise - data)).sum(1)


def paths(start: Tensor, steps: int, evaluations: int) -> list[Tensor]:
    schedule = sampling_schedule(steps, shift=5.0)
    solver, x, seen, v = Solver(schedule), start, [start], torch.zeros_like(start)
    for index in range(steps):
        if index in evaluated_steps(steps, evaluations):
            v = velocity(x, schedule.sigmas[index])
        x = solver.step(x[:, None], v[:, None], index)[:, 0]
        seen.append(x)
    return seen


def line(points: Sequence[tuple[float, float]], colour: str, width: float = 1.5, dash: str = "") -> None:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    svg.append(
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"/>'
    )


def text(x: float, y: float, words: str, colour: str = SOFT, anchor: str = "middle", bold: bool = False) -> None:
    weight = "bold" if bold else "normal"
    style = f'font-size="12" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    svg.append(f'<text x="{x}" y="{y}" {style}>{words}</text>')


def toy(left: float, right: float, top: float, bottom: float) -> None:
    steps, evaluations = 16, 8
    levels = sampling_schedule(steps, shift=5.0).sigmas
    across: Scale = lambda index: left + (right - left) * index / steps  # noqa: E731
    up: Scale = lambda x: (top + bottom) / 2 - x * (bottom - top) / 5.2  # noqa: E731
    for index in range(steps + 1):
        kept = index in evaluated_steps(steps, evaluations)
        line([(across(index), top), (across(index), bottom)], "#cfd8df" if kept else "#eef2f5", 1.5 if kept else 1)
    start = torch.linspace(-2.2, 2.2, 12)
    for path in torch.stack(paths(start, steps, evaluations)).T.tolist():
        line([(across(i), up(x)) for i, x in enumerate(path)], ACTION)
    text((left + right) / 2, 22, "12 starts, 16 steps, 8 evaluations of the network", INK, bold=True)
    for index in (0, 4, 8, 12, 16):
        text(across(index), bottom + 18, f"σ {levels[index]:.2f}")
    text(left - 6, bottom + 36, "noise", INK, "start")
    text(right + 6, bottom + 36, "data", INK, "end")
    for answer in (-1, 1):
        text(right + 8, up(answer) + 4, f"{answer:+d}", INK, "start")


def levels(left: float, right: float, top: float, bottom: float) -> None:
    text((left + right) / 2, 22, "4 steps: noise left in video and action", INK, bold=True)
    up: Scale = lambda sigma: bottom - sigma * (bottom - top)  # noqa: E731
    for sigma in (0.0, 0.5, 1.0):
        line([(left, up(sigma)), (right, up(sigma))], "#dde4e9", 1)
        text(left - 8, up(sigma) + 4, f"{sigma:.1f}", anchor="end")
    across: Scale = lambda index: left + (right - left) * index / 4  # noqa: E731
    for final, colour, dash, name, height in (
        (0.0, ACTION, "", "action, and video as usual", 0.3),
        (0.8, VIDEO, "6 4", "video under Flash", 0.17),
    ):
        sigmas = sampling_schedule(4, shift=5.0, final_noise=final).sigmas
        line([(across(i), up(s)) for i, s in enumerate(sigmas)], colour, 2.2, dash)
        for i, s in enumerate(sigmas):
            svg.append(f'<circle cx="{across(i):.1f}" cy="{up(s):.1f}" r="3.2" fill="{colour}"/>')
        text(left + 14, up(height), name, colour, "start")
    for index in range(5):
        text(across(index), bottom + 18, str(index))
    text((left + right) / 2, bottom + 36, "step", INK)


toy(40, 520, 36, 226)
levels(640, 930, 36, 226)
Path(__file__).with_suffix(".svg").write_text(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 970 272" font-family="Helvetica, Arial, sans-serif">\n'
    '<rect width="970" height="272" fill="#ffffff"/>\n' + "\n".join(svg) + "\n</svg>\n"
)
