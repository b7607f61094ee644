"""Figures as SVG that takes its colours from the page and has the same bytes on every machine."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import matplotlib as mpl
import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

SVG: Final = "http://www.w3.org/2000/svg"
XLINK: Final = "http://www.w3.org/1999/xlink"
STYLE: Final = Path(__file__).with_name("page.mplstyle")
# Placeholders: `finish` replaces these colours by variables of the page's style, which has a light and a dark scheme.
SERIES: Final = ("#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015", "#0a0016")
VARIABLES: Final = {"#0a0001": "ink", "#0a0002": "muted", "#0a0003": "grid"} | {
    color: f"series-{number}" for number, color in enumerate(SERIES, start=1)
}
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
LINES: Final = ("-", "--", ":", "-.")
LABELS: Final = 24  # at most, on one chart
LABEL_LENGTH: Final = 24  # letters

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


@dataclass(frozen=True)
class Chart:
    """A drawing with a name that is unique on the page, a title, and what it shows in words."""

    name: str
    title: str
    text: str
    svg: Markup


@contextmanager
def style() -> Iterator[None]:
    """Draw in the page's style, whatever the user's settings and the machine's fonts."""
    with mpl.style.context(["default", STYLE]):
        # Other fonts would change how much room text takes.
        font_manager.fontManager.ttflist = [
            entry for entry in font_manager.fontManager.ttflist if entry.fname.startswith(mpl.get_data_path())
        ]
        yield


def figure(size: tuple[float, float] = (4.4, 3.0), *, bars: bool = False) -> tuple[Figure, Axes]:
    """Return an empty figure of that size in inches; one for bars has no vertical lines."""
    drawn = Figure(figsize=size)
    axes = drawn.add_subplot()
    axes.xaxis.grid(not bars)
    return drawn, axes


def finish(
    drawn: Figure, name: str, title: str, text: str, tooltips: Mapping[str, Sequence[str]] | None = None
) -> Chart:
    """Turn a figure into SVG for a page: with the page's colours, no fixed size, and ids that start with its name.

    `tooltips` are, by the gid of a collection, a text for each of its points.
    """
    file = io.StringIO()
    drawn.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    root = ET.fromstring(svg)  # noqa: S314 - matplotlib's own
    for gid, words in (tooltips or {}).items():
        points = root.findall(f".//*[@id='{gid}']//{{{SVG}}}use")
        for point, word in zip(points, words, strict=True):
            ET.SubElement(point, f"{{{SVG}}}title").text = word
    ids: dict[str, str] = {}  # Matplotlib's are random or hashes, and the same in every figure

    def new_id(old: str) -> str:
        return ids.setdefault(old, f"{name}-{len(ids)}")

    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, new_id(value))
            else:
                # Six decimals, which Matplotlib writes, can show the last bits of a matrix product; two cannot.
                rounded = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
                element.set(key, re.sub(r"(?<=#)[^)\s]+", lambda old: new_id(old[0]), rounded))
    del root.attrib["width"], root.attrib["height"]
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-text"}
    return Chart(name, title, text, Markup(ET.tostring(root, encoding="unicode")))  # noqa: S704 - matplotlib's own


def plain_numbers(*logarithmic: Axis) -> None:
    """Write the numbers of logarithmic axes in full."""
    for axis in logarithmic:
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(NullFormatter())


def label_points(axes: Axes, places: NDArray[np.float64], titles: Sequence[str]) -> None:
    """Label the first of (n, 2) points by their "Title (year)", where no label covers another or leaves the axes."""
    inside = axes.get_window_extent()
    taken: list[Bbox] = []
    for place, title in zip(places, titles, strict=True):
        short = title.rsplit(" (", 1)[0]
        short = short if len(short) <= LABEL_LENGTH else short[: LABEL_LENGTH - 2] + "…"
        label = axes.annotate(short, tuple(place), (4, 3), textcoords="offset points", fontsize=8)
        box = label.get_window_extent()
        fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1
        if fits and len(taken) < LABELS and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            label.remove()
