"""A horizontal bar chart as SVG, readable on a light and on a dark page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _LEFT, _RIGHT = 860, 300, 70
_ROW, _BAR, _TOP, _GAP, _BOTTOM = 26, 16, 48, 8, 30

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.heading { font-weight: 600 }
.axis { fill: #59636e; font-size: 12px }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.one { stroke: #59636e; stroke-width: 1 }
.other { fill: #8c959f }
.ours { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .axis { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .one { stroke: #9198a1 }
  .other { fill: #656c76 }
  .ours { fill: #3fb950 }
}
"""


Panel = tuple[str, Sequence[tuple[str, float]]]


def bars(title: str, panels: Sequence[Panel], *, highlight: str) -> str:
    """Panels of bars on one scale: a heading, then one bar per (label, ratio), shortest first.

    Bars begin at zero, a line marks 1. Labels that start with ``highlight`` stand out.
    """
    end = max(2, -int(-max(value for _, values in panels for _, value in values) // 1))
    scale = (_WIDTH - _LEFT - _RIGHT) / end
    body: list[str] = []
    top = _TOP
    for heading, values in panels:
        body.append(f'<text class="heading" x="16" y="{top + 17}">{escape(heading)}</text>')
        top += _ROW
        for label, value in sorted(values, key=lambda item: item[1]):
            body += _bar(label, value, top, scale, ours=label.startswith(highlight))
            top += _ROW
        top += _GAP
    height = top + _BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<text class="title" x="16" y="30">{escape(title)}</text>',
            *_grid(end, scale, top),
            *body,
            "</svg>",
            "",
        ]
    )


def _grid(end: int, scale: float, bottom: int) -> list[str]:
    parts = []
    for mark in range(end + 1):
        x = _LEFT + mark * scale
        kind = "one" if mark == 1 else "grid"
        parts += [
            f'<line class="{kind}" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>',
            f'<text class="axis" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{mark}</text>',
        ]
    return parts


def _bar(label: str, value: float, top: int, scale: float, *, ours: bool) -> list[str]:
    y = top + (_ROW - _BAR) / 2
    middle = y + _BAR - 3.5
    end = _LEFT + value * scale
    return [
        f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>',
        f'<rect class="{"ours" if ours else "other"}" x="{_LEFT}" y="{y}" '
        f'width="{value * scale:.1f}" height="{_BAR}" rx="2"/>',
        f'<text x="{end + 6:.1f}" y="{middle}">{value:.2f}</text>',
    ]
