"""`make gallery` runs every pilot at its small size, and writes docs/pilots.md with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aggregator.report import figures
from aggregator.report.figures import Picture
from federation import study as studies
from simulations.pilots import comparison, running
from simulations.pilots.running import PilotResult

DOCS = Path(__file__).parents[2] / "docs"
HEAD = """# The pilots

Ten projects opened the Health Data Hub, each with data at several producers. All run here on
synthetic people with planted effects (`truth.yaml` beside each pilot), in exact and in private
mode, and six also on real data; `dialysis` is real. The columns approximate published descriptions
of the sources.

Eight of them need people who are known to two holders (docs/linkage.md). Of these, the studies of
`arac` and `deepsarc` are linked, and the others have `linked` and `linked-private` beside a study
of one holder's rows, which may be many a person, or images. Neither holder can answer a linked
study alone: the planted effect is of one holder's columns on the other's. `oscour` links without a
common identifier. The real studies of `arac` and `parcours_idm` are linked too: each gives half of
the columns to another holder. `ordei` sets two datasets side by side, and `pimpon` needs one.

```console
$ hdh pilots run --all                         # the tables below; a study on each core
$ hdh simulate deepsarc --variant private      # one study, with its report
$ hdh simulate rexetris --variant linked       # exposures at three centres, ends at a register
$ hdh simulate oscour --size full              # as many as in reality: 130 million visits
$ hdh simulate pimpon --engine flower          # over real processes
```

`make gallery` writes this page. One in twenty 95 % intervals does not contain the truth; a test
checks this rate over many seeds (`tests/flow/test_pilots.py`, `make slow`). Private studies draw
new noise at each run.
"""


def main() -> None:
    (DOCS / "figures").mkdir(exist_ok=True)
    sections = [HEAD]
    for name in running.names():
        results = {variant: running.run(name, variant) for variant in running.variants(name)}
        sections.append(section(name, results))
    (DOCS / "pilots.md").write_text("\n".join(sections), encoding="utf-8")


def section(name: str, results: Mapping[str, PilotResult]) -> str:
    pilot = running.load(name)
    folder = Path(str(pilot.__file__)).parent
    lines = [f"## {name}", "", running.title(name), "", *sizes(pilot)]
    for variant, result in results.items():
        study, _ = studies.load(folder / f"{variant}.yaml")
        note = running.note_of(pilot, variant)
        analyses = ", ".join(f"`{entry.run}`" for entry in study.analyses.values())
        nodes = ", ".join(result.document.provenance["nodes"])
        lines += [f"**{variant}**: {study.question} ({analyses}; nodes: {nodes}; {note}.)", ""]
    lines += table([result.row for result in results.values()])
    pictures = drawn(name, results)
    if "private" in results and "train" in studies.load(folder / "study.yaml")[0].runs:
        more, text = trained(name)
        pictures, lines = pictures + more, lines + text
    for label, picture in pictures:
        path = DOCS / "figures" / f"{name}-{label}.svg"
        path.write_text(picture.svg, encoding="utf-8")
        lines += ["", f"![{name}, {label.replace('-', ' ')}](figures/{path.name})"]
    return "\n".join([*lines, ""])


def sizes(pilot: Any) -> list[str]:
    """How many people the generator makes (visits in oscour), by default and with --size full."""
    named = {"SIZES": "Sizes", "LINKED_SIZES": "Sizes of the linked studies"}
    return [
        line
        for attribute, words in named.items()
        if (size := getattr(pilot, attribute, None))
        for line in (f"{words}: {size['small']:,}; with `--size full` {size['full']:,}.", "")
    ]


def trained(name: str) -> tuple[list[tuple[str, Picture]], list[str]]:
    """The gain from training together and the cost of epsilon, on people who are in no training."""
    networks, epsilons = comparison.networks(name), comparison.epsilons(name)
    lines = [
        "",
        "The same training, tested on new people: at each node alone, together,"
        " and with all rows in one place:",
        "",
        "| trained | area under the curve | s.e. |",
        "|---|---|---|",
    ]
    lines += [
        f"| {network.name} | {network.auc:.4f} | {network.std_error:.4f} |" for network in networks
    ]
    lines += [
        "",
        "The private study at several epsilons (delta and steps as in `private.yaml`),"
        " tested on the same new people:",
    ]
    rows = [
        (
            network.name,
            network.auc,
            network.auc - 1.96 * network.std_error,
            network.auc + 1.96 * network.std_error,
            None,
        )
        for network in networks
    ]
    curve = [(float(network.name), network.auc, 1.96 * network.std_error) for network in epsilons]
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
            f"| {row['study']} | {row['people']:,} | {row['rounds']} | {row['exactness']} |"
            f" {epsilon} | {row['what']}: {row['estimate']:.3f} | {interval} | {truth} |"
        )
    return lines


def drawn(name: str, results: Mapping[str, PilotResult]) -> list[tuple[str, Picture]]:
    """The figures of the pilot's study, and its estimates beside the truth."""
    pictures = [("estimates", estimates([result.row for result in results.values()]))]
    for key, analysis in results["study"].document.analyses.items():
        if curve := analysis.tables.get("curve"):
            pictures.append((key, figures.curves(curve)))
        elif analysis.run == "pathways" and not analysis.tables.get("indicators", [{}])[0].get(
            "low_95"
        ):
            pictures.append((key, figures.pathway(analysis.tables["edges"])))
    return pictures


def estimates(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """The estimates of what the first study estimates, with their intervals, and the planted values
    as dashed lines. After a comma, `what` says how."""
    label = rows[0]["what"].split(",")[0]
    shown = [row for row in rows if row["what"].split(",")[0] == label]
    return figures.intervals(
        [(row["study"], row["estimate"], row["low"], row["high"], row["truth"]) for row in shown],
        label,
    )


if __name__ == "__main__":
    main()
