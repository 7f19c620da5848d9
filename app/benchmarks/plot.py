"""A horizontal bar chart as SVG, readable on a light and on a dark page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _LEFT, _RIGHT = 860, 300, 70
_ROW, _BAR, _TOP, _BOTTOM = 26, 16, 56, 34

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
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


def bars(title: str, values: Sequence[tuple[str, float]], *, highlight: str) -> str:
    """One bar per (label, ratio), shortest first; those whose label starts with ``highlight``
    stand out. Bars begin at zero, a line marks 1."""
    ordered = sorted(values, key=lambda item: item[1])
    end = max(2, -int(-max(value for _, value in ordered) // 1))
    scale = (_WIDTH - _LEFT - _RIGHT) / end
    height = _TOP + _ROW * len(ordered) + _BOTTOM
    bottom = height - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="16" y="30">{escape(title)}</text>',
    ]
    for mark in range(end + 1):
        x = _LEFT + mark * scale
        kind = "one" if mark == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(
            f'<text class="axis" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{mark}</text>'
        )
    for row, (label, value) in enumerate(ordered):
        y = _TOP + row * _ROW + (_ROW - _BAR) / 2
        kind = "ours" if label.startswith(highlight) else "other"
        middle = y + _BAR - 3.5
        parts += [
            f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{value * scale:.1f}" '
            f'height="{_BAR}" rx="2"/>',
            f'<text x="{_LEFT + value * scale + 6:.1f}" y="{middle}">{value:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
