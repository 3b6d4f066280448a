"""`make gallery`: writes docs/pilots.md and its figures from a run of every pilot at its small size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aggregator.report import figures
from federation import study as studies
from simulations.pilots import comparison, running
from simulations.pilots.running import PilotResult

DOCS = Path(__file__).parents[2] / "docs"
HEAD = """# The pilots

Ten projects opened the Health Data Hub, each with data at several producers. All run here on synthetic people at whom a truth was planted
(`truth.yaml` beside each), in exact and in private mode, and six also on real data; `dialysis` is real. `arac` links people over insurers and SNDS (docs/linkage.md); `ordei` sets
two datasets side by side. Columns are approximations of what is published about the sources.

```console
$ hdh pilots run --all                         # the tables below, in a minute
$ hdh simulate deepsarc --variant private      # one study, with its report
$ hdh simulate oscour --size full              # as many as there are: 130 million visits
$ hdh simulate pimpon --engine flower          # over real processes
```

This page is written by `make gallery`. One in twenty 95 % intervals does not hold the truth; that the rate is right over many seeds is
tested (`tests/flow/test_pilots.py`, `make slow`). The noise of private studies is drawn anew each time.
"""


def main() -> None:
    (DOCS / "figures").mkdir(exist_ok=True)
    sections = [HEAD]
    for name in running.names():
        found = {variant: running.run(name, variant) for variant in running.variants(name)}
        sections.append(section(name, found))
    (DOCS / "pilots.md").write_text("\n".join(sections), encoding="utf-8")


def section(name: str, found: Mapping[str, PilotResult]) -> str:
    pilot = running.load(name)
    lines = [f"## {name}", "", pilot.__doc__.splitlines()[0], ""]
    for variant, one in found.items():
        made, _ = studies.load(Path(str(pilot.__file__)).parent / f"{variant}.yaml")
        note = pilot.REAL_NOTE if variant == "real" else pilot.NOTE
        analyses = ", ".join(f"`{entry.run}`" for entry in made.analyses.values())
        lines += [
            f"**{variant}**: {made.question} ({analyses}; nodes: {', '.join(one.document.provenance['nodes'])}; {note}.)",
            "",
        ]
    lines += table([one.row for one in found.values()])
    pictures = drawn(name, found)
    if "private" in found and any(
        entry.run == "train"
        for entry in studies.load(Path(str(pilot.__file__)).parent / "study.yaml")[
            0
        ].analyses.values()
    ):
        more, text = trained(name)
        pictures, lines = pictures + more, lines + text
    for label, svg in pictures:
        path = DOCS / "figures" / f"{name}-{label}.svg"
        path.write_text(svg, encoding="utf-8")
        lines += ["", f"![{name}, {label.replace('-', ' ')}](figures/{path.name})"]
    return "\n".join([*lines, ""])


def trained(name: str) -> tuple[list[tuple[str, str]], list[str]]:
    """What training together is worth, and what epsilon costs, over people whom no training has seen."""
    networks, epsilons = comparison.networks(name), comparison.epsilons(name)
    lines = [
        "",
        "The same training over new people, at each node alone, together, and with all rows in one place:",
        "",
        "| trained | area under the curve | s.e. |",
        "|---|---|---|",
    ]
    lines += [f"| {one.name} | {one.auc:.4f} | {one.std_error:.4f} |" for one in networks]
    lines += [
        "",
        "And the private study at several epsilons (delta and steps as in `private.yaml`), over the same new people:",
    ]
    rows = [
        (one.name, one.auc, one.auc - 1.96 * one.std_error, one.auc + 1.96 * one.std_error, None)
        for one in networks
    ]
    curve = [(float(one.name), one.auc, 1.96 * one.std_error) for one in epsilons]
    pictures = [
        ("together", figures.intervals(rows, "area under the curve")),
        ("epsilon", figures.trend(curve, "epsilon", "area under the curve")),
    ]
    return pictures, lines


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| study | people | rounds | | epsilon | main estimate | 95 % interval | truth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        truth = (
            "" if row["truth"] is None else f"{row['truth']:.3f}, {'in' if row['holds'] else 'out'}"
        )
        epsilon = "" if row["epsilon"] is None else f"{row['epsilon']:g}"
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(
            f"| {row['study']} | {row['people']:,} | {row['rounds']} | {row['exactness']} | {epsilon} | {row['what']}: {row['estimate']:.3f} | {interval} | {truth} |"
        )
    return lines


def drawn(name: str, found: Mapping[str, PilotResult]) -> list[tuple[str, str]]:
    """The pilot's own figure, and its estimates beside the truth."""
    pictures = [("estimates", estimates([one.row for one in found.values()]))]
    for key, analysis in found["study"].document.analyses.items():
        if curve := analysis.tables.get("curve"):
            pictures.append((key, figures.curves(curve)))
        elif analysis.run == "pathways" and not analysis.tables.get("indicators", [{}])[0].get(
            "low_95"
        ):
            pictures.append((key, figures.pathway(analysis.tables["edges"])))
    return pictures


def estimates(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each study's estimate with its interval, and the planted values as dashed lines."""
    return figures.intervals(
        [(row["study"], row["estimate"], row["low"], row["high"], row["truth"]) for row in rows],
        rows[0]["what"],
    )


if __name__ == "__main__":
    main()
