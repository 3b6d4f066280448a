"""A drawing that notebooks show and files keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from federation import errors


@dataclass(frozen=True)
class Drawing:
    """`svg`: the text of the drawing, or of several below each other."""

    svg: tuple[str, ...] = field(repr=False)

    def save(self, path: Path | str) -> None:
        """Writes a single drawing as SVG, and several as a page of HTML."""
        path = Path(path)
        wanted = ".svg" if len(self.svg) == 1 else ".html"
        if path.suffix != wanted:
            raise errors.InputError(
                f"{path.name}: {len(self.svg)} drawings are written as {wanted}; end the name so"
            )
        text = self.svg[0] if wanted == ".svg" else f"<!doctype html>{self._repr_html_()}"
        path.write_text(text, encoding="utf-8")

    def _repr_html_(self) -> str:
        return "".join(f"<div>{svg}</div>" for svg in self.svg)
