"""Small drawings of the report. Colours are names of the page's style sheet, so that they follow light and dark."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 640
_LEFT = 150
_ROW = 18

Shares = Sequence[tuple[str, Sequence[float]]]
Bands = Sequence[tuple[str, tuple[float, float, float] | None]]


def stacked_bars(rows: Shares, names: Sequence[str], title: str) -> str:
    """Draw a bar for each row, in as many parts as there are names; the parts sum to 1."""
    parts, inner = [], WIDTH - _LEFT
    for index, (label, shares) in enumerate(rows):
        top, left = 22 + index * _ROW, float(_LEFT)
        parts.append(_text(_LEFT - 6, top + 12, label, "end"))
        for place, (name, share) in enumerate(zip(names, shares, strict=True)):
            width = share * inner
            parts.append(
                f'<rect class="r{place}" x="{left:.1f}" y="{top}" width="{width:.1f}" height="14">'
                f"<title>{escape(label)}, {escape(name)}: {share:.3f}</title></rect>"
            )
            left += width
    for place, name in enumerate(names):
        parts.append(f'<rect class="r{place}" x="{_LEFT + place * 90}" y="3" width="10" height="10"/>')
        parts.append(_text(_LEFT + place * 90 + 14, 12, name))
    return _figure(parts, 26 + len(rows) * _ROW, title)


def bands(rows: Bands, low: float, high: float, marks: Mapping[float, str], title: str) -> str:
    """Draw for each row the range from the first to the last of its three numbers, and a tick at the middle one."""
    parts, inner = [], WIDTH - _LEFT - 10

    def x(value: float) -> float:
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * inner

    height = 24 + len(rows) * 11
    for value, name in marks.items():
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="16" y2="{height - 4}"/>')
        parts.append(_text(x(value), 11, name, "middle"))
    for index, (label, band) in enumerate(rows):
        top = 20 + index * 11
        parts.append(_text(_LEFT - 6, top + 8, label, "end"))
        if band is None:
            continue
        start, middle, end = (x(value) for value in band)
        numbers = ", ".join(f"{value:.3f}" for value in band)
        parts.append(
            f'<rect class="band" x="{start:.1f}" y="{top + 1}" width="{max(1.0, end - start):.1f}" height="7">'
            f"<title>{escape(label)}: {numbers}</title></rect>"
            f'<rect class="tick" x="{middle - 1:.1f}" y="{top}" width="2" height="9"/>'
        )
    return _figure(parts, height, title)


def pairs(rows: Sequence[tuple[str, Sequence[float | None]]], columns: Sequence[str], title: str) -> str:
    """Draw a line for each row through its values, a column for each arm; seeds disagree where lines cross."""
    values = [value for _, row in rows for value in row if value is not None]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (WIDTH - 2 * 90) / max(1, len(columns) - 1)

    def y(value: float) -> float:
        return 150 - (value - low) / span * 110

    parts = [_text(90 + place * step, 172, name, "middle") for place, name in enumerate(columns)]
    parts += [_text(70, y(value) + 4, f"{value:.4g}", "end") for value in sorted({low, high})]
    for label, row in rows:
        points = [(90 + place * step, y(value), value) for place, value in enumerate(row) if value is not None]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top, _ in points)
        parts.append(f'<polyline class="seed" points="{path}"/>')
        for left, top, value in points:
            parts.append(
                f'<circle class="tick" cx="{left:.1f}" cy="{top:.1f}" r="3.5">'
                f"<title>{escape(label)}: {value:.5g}</title></circle>"
            )
    return _figure(parts, 180, title)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(parts: Sequence[str], height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )
