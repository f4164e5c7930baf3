"""How figures look: colours that colour-blind readers tell apart, marks that print tells apart, images in a mosaic."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter
from numpy.typing import NDArray
from PIL import Image

#: Paul Tol's "muted" scheme (personal.sron.nl/~pault, technical note SRON/EPS/TN/09-002), told apart by colour-blind readers.
COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499", "#888888")
#: One for each colour, so that a print in grey keeps them apart.
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")
NORMAL, ANOMALOUS = "#332288", "#CC6677"
WRONG = (204, 51, 17)  # a frame around an image of the wrong class
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "text.parse_math": False,  # a dollar in the name of an arm or a class is a dollar
}


def styled() -> AbstractContextManager[None]:
    """Within the block figures have the house's style."""
    context: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return context


def panels(
    columns: int, rows: int = 1, *, width: float = 3.4, height: float = 3.0, ratios: Sequence[float] | None = None
) -> tuple[Figure, NDArray[Any]]:
    """A figure and its axes [rows, columns]; sizes of a panel in inches, and the columns' relative widths.

    Not pyplot's: nothing is kept, and any thread may draw.
    """
    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False, width_ratios=ratios)


def drawn(figure: Figure) -> NDArray[np.uint8]:
    """The figure's pixels [H, W, 4], drawn once: savefig draws twice, the first time for the layout alone."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatter):  # its labels are formulas, drawn as they are here
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    content = io.BytesIO()
    Image.fromarray(drawn(figure)).convert("RGB").save(content, format="png")
    return content.getvalue()


def colour(index: int) -> str:
    """A category's colour."""
    return COLOURS[index % len(COLOURS)]


def line(index: int) -> dict[str, str]:
    """Return the line style (colour and dashes) of curve ``index``; the first 40 are distinct."""
    return {"color": colour(index), "linestyle": LINES[(index // len(COLOURS) + index) % len(LINES)]}


def mark(index: int) -> str:
    """A category's mark; with its colour told apart up to 100 of them."""
    return MARKERS[(index + 3 * (index // len(COLOURS))) % len(MARKERS)]


def scatter(axes: Axes, points: NDArray[Any], labels: NDArray[np.int64], *, size: float = 7, marks: bool = True) -> None:
    """Points [N, 2] in the colour and, with ``marks``, with the mark of their label [N]."""
    for label in np.unique(labels):
        members = points[labels == label]
        axes.scatter(
            members[:, 0],
            members[:, 1],
            s=size,
            linewidths=0,
            alpha=0.6,
            c=colour(int(label)),
            marker=mark(int(label)) if marks else "o",
        )
    axes.set_xticks([])
    axes.set_yticks([])


def class_legend(figure: Figure, names: Sequence[str]) -> None:
    """Each class's mark and name below the figure, where they are few enough to read and to tell apart."""
    from matplotlib.lines import Line2D

    if len(names) > 40:
        return
    marks = [Line2D([], [], linestyle="", marker=mark(i), color=colour(i), label=name) for i, name in enumerate(names)]
    figure.legend(handles=marks, loc="outside lower center", ncols=min(10, len(names)), handletextpad=0.1, title="class")


def mosaic(images: Sequence[Sequence[NDArray[np.uint8] | None]], wrong: Sequence[Sequence[bool]] | None = None) -> NDArray[Any]:
    """Rows of images [3, S, S] uint8 as one picture [H, W, 3] on white; wrong ones get a red frame; None leaves a gap.

    All rows have one length.
    """
    size = next(image.shape[-1] for row in images for image in row if image is not None)
    frame = 3
    cell = size + 2 * frame + 2
    picture = np.full((cell * len(images), cell * len(images[0]), 3), 255, dtype=np.uint8)
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            if image is None:
                continue
            top, left = i * cell + 1, j * cell + 1
            if wrong is not None and wrong[i][j]:
                picture[top : top + size + 2 * frame, left : left + size + 2 * frame] = WRONG
            inner = (slice(top + frame, top + frame + size), slice(left + frame, left + frame + size))
            picture[inner] = image.transpose(1, 2, 0)
    return picture


def show(axes: Axes, picture: NDArray[Any], rows: Sequence[str] = (), columns: Sequence[tuple[float, str]] = ()) -> None:
    """Shows a mosaic, with a name at each row, and titles above at fractions of its width."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    height, width = picture.shape[:2]
    axes.set_yticks([(i + 0.5) * height / len(rows) - 0.5 for i in range(len(rows))] if rows else [])
    if rows:
        axes.set_yticklabels(rows)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for at, text in columns:
        axes.text(at * width, -0.012 * height - 2, text, ha="center", va="bottom", fontsize=8)
