"""A drawing that notebooks show and files keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from federation import errors
from federation.api.spoken import spoken

if TYPE_CHECKING:
    from aggregator.report.figures import Picture


@dataclass(frozen=True)
class Drawing:
    """One picture, or several below each other."""

    pictures: tuple[Picture, ...] = field(repr=False)

    @property
    def svg(self) -> tuple[str, ...]:
        """The text of each picture."""
        return tuple(picture.svg for picture in self.pictures)

    @spoken()
    def save(self, path: Path | str) -> None:
        """Writes a single picture as SVG or PNG, and several as a page of HTML."""
        path = Path(path)
        is_single = len(self.pictures) == 1
        if is_single and path.suffix not in (".svg", ".png"):
            raise errors.InputError(f"{path.name}: give the file a name that ends in .svg or .png")
        if not is_single and path.suffix != ".html":
            raise errors.InputError(
                f"{path.name}: there are {len(self.pictures)} drawings; give the file a name that"
                " ends in .html"
            )
        if path.suffix == ".png":
            path.write_bytes(self.pictures[0].png())
            return
        text = self.svg[0] if path.suffix == ".svg" else f"<!doctype html>{self._repr_html_()}"
        path.write_text(text, encoding="utf-8")

    def _repr_html_(self) -> str:
        return "".join(f"<div>{svg}</div>" for svg in self.svg)
