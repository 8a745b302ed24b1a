"""A plain SVG: activation traffic over the share of ReLUs kept, a line a framework, a cross for the mask form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 400, 70, 50, 40, 20
COLOURS = {"crypten": "#1f6fb2", "spu": "#c2571a"}


def plot(rows: Sequence[dict[str, Any]], total: int) -> str:
    """SVG text. x: share kept, 0..100 %; y: activation traffic in MB."""
    top = max(_megabytes(row) for row in rows) * 1.05

    def at(row: dict[str, Any]) -> tuple[float, float]:
        x = LEFT + row["kept"] / total * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - _megabytes(row) / top * (HEIGHT - BOTTOM - TOP)

    parts = [*_axes(top)]
    for number, (name, colour) in enumerate(COLOURS.items()):
        line = sorted(at(row) for row in rows if row["framework"] == name and row["form"] == "gather")
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in line]
        for x, y in (at(row) for row in rows if row["framework"] == name and row["form"] == "mask"):
            parts.append(f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(LEFT + 14, TOP + 16 + 18 * number, f"{name} (cross: mask form)", fill=colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _megabytes(row: dict[str, Any]) -> float:
    return float(row["measured"]["traffic"]["activations_total"]) / 1e6


def _axes(top: float) -> list[str]:
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {TOP}V{low}H{right}" fill="none" stroke="#444"/>']
    step = 50 if top > 150 else 10
    for value in range(0, int(top) + 1, step):
        y = low - value / top * (low - TOP)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, str(value), anchor="end"))
    for share in (0, 25, 50, 75, 100):
        parts.append(_text(LEFT + share / 100 * (right - LEFT), low + 18, f"{share} %", anchor="middle"))
    parts.append(_text(WIDTH / 2, HEIGHT - 10, "ReLUs kept", anchor="middle"))
    parts.append(_text(LEFT, 22, "activation traffic of one inference, MB on the wire"))
    return parts


def _text(x: float, y: float, words: str, anchor: str = "start", fill: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{words}</text>'
