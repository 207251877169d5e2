"""Figures as pictures in files: SVG, or PNG where that is smaller."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio

from interp.errors import NotAvailableError
from interp.store.opening import write_file

__all__ = ["write_pictures"]

COLOURS = 128
"""Number of colours of a PNG, which makes it a third as large."""
FORMS = (("svg", 1.0), ("png", 1.5), ("png", 1.0), ("png", 0.75), ("png", 0.5))
"""Formats to try until a picture is small enough, with the pixels of a PNG per pixel of the layout."""


def write_pictures(figures: Mapping[str, go.Figure], folder: Path, largest: int = 60_000) -> dict[str, Path]:
    """Write each figure as `<name>.svg`, or as a PNG where the SVG is larger than `largest` bytes.

    Equal figures make equal files: the random ids that plotly gives to parts of an SVG become the figure's name.

    Returns:
        Where each picture lies. An older one in the other format is deleted.

    Raises:
        NotAvailableError: kaleido or pillow is not installed (the extra `images`), or kaleido finds no Chromium, or a
            picture is too large even as the smallest PNG.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise NotAvailableError("Pictures need pillow: pip install 'grokking-interp[images]'.") from error
    folder.mkdir(parents=True, exist_ok=True)
    opaque = {name: go.Figure(fig).update_layout(paper_bgcolor="white") for name, fig in figures.items()}
    written: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as drawn:
        for ending, scale in FORMS:
            left = [name for name in figures if name not in written]
            if not left:
                break
            paths = [Path(drawn) / f"{name}.{ending}" for name in left]
            try:
                pio.write_images(
                    [opaque[name] for name in left],
                    paths,
                    width=[figures[name].layout.width or 760 for name in left],
                    height=[figures[name].layout.height or 420 for name in left],
                    scale=scale,
                )
            except (
                ValueError,
                RuntimeError,
            ) as error:  # plotly says how to install kaleido, kaleido how to get a browser
                raise NotAvailableError(
                    f"Pictures need kaleido and a Chromium: pip install 'grokking-interp[images]'. ({error})"
                ) from error
            for name, path in zip(left, paths):
                if ending == "svg":
                    path.write_text(_named(path.read_text(encoding="utf-8"), name), encoding="utf-8")
                else:
                    with Image.open(path) as picture:
                        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
                    few.save(path, optimize=True)
                if path.stat().st_size > largest:
                    continue
                written[name] = folder / path.name
                write_file(written[name], path.read_bytes())
                written[name].with_suffix(".png" if ending == "svg" else ".svg").unlink(missing_ok=True)
    if large := [name for name in figures if name not in written]:
        raise NotAvailableError(f"The picture of {', '.join(large)} is larger than {largest:,} bytes.")
    return written


def _named(svg: str, name: str) -> str:
    """The SVG with plotly's random six digits replaced: those of the figure by a name, those of traces by numbers."""
    ids = {
        found: f"{number}" for number, found in enumerate(dict.fromkeys(re.findall(r"(?:trace|cb)([0-9a-f]{6})", svg)))
    }
    ids |= dict.fromkeys(re.findall(r'id="defs-([0-9a-f]{6})"', svg), name)
    return re.sub(r"(trace|cb|g|defs-|clip|legend)([0-9a-f]{6})", lambda at: at[1] + ids.get(at[2], at[2]), svg)
