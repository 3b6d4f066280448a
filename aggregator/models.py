"""A trained network as files: its weights in the safetensors format, and a model card."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation import errors
from federation.results import TrainedModel
from strategies.learning import networks
from strategies.learning.networks import Network

MEASURES = {  # of a node, of which the card shows the first that its table has
    "auc": "area under the curve",
    "rmse": "root mean squared error",
    "concordance": "concordance",
}


def network(about: Mapping[str, Any]) -> Network:
    return Network(
        about["network"],
        tuple(about["shape"]),
        tuple(about["widths"]),
        about["norm"],
        about.get("outputs", 1),
    )


def document(model: TrainedModel) -> dict[str, Any]:
    """The model's entry in result.json: its description, and the safetensors file in base64."""
    from safetensors.numpy import save

    net = networks.build(network(model.about))
    networks.put(net, model.weights)
    content = save(networks.named(net), {"hdh": json.dumps(model.about, sort_keys=True)})
    return {
        "about": dict(model.about),
        "format": "safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "base64": base64.b64encode(content).decode(),
    }


def write(released: Mapping[str, Any], card: str, folder: Path, name: str) -> None:
    content = base64.b64decode(released["base64"])
    if hashlib.sha256(content).hexdigest() != released["sha256"]:
        raise errors.InputError(
            f"the model of {name!r} is not the released one, because its hash differs;"
            " fetch the result again"
        )
    (folder / f"{name}.safetensors").write_bytes(content)
    (folder / f"{name}.md").write_text(card, encoding="utf-8")


def load(path: Path) -> Any:
    """The trained torch module of a released file, in evaluation mode. Its input is
    (n_rows, *shape), scaled as the model card says."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "hdh" not in metadata:
        raise errors.InputError(
            f"{path}: not a network that a study released; give the .safetensors file of a result"
        )
    net = networks.build(network(json.loads(metadata["hdh"])))
    # The file lacks the layers that stay at their node.
    net.load_state_dict(load_file(path), strict=False)
    return net.eval()


def card(name: str, analysis: Mapping[str, Any]) -> str:
    """The model card, in Markdown. `analysis`: its entry in result.json, with `study`, `title`,
    `question`, `provenance` and `protection` added."""
    about = analysis["model"]["about"]
    lines = [
        f"# {name}: {about['network']} of study {analysis['study']}",
        "",
        analysis["title"],
        "",
        *_facts(name, analysis),
        "",
        "## In validation",
        "",
        *_validation(analysis["tables"]),
        "",
        "## Use",
        "",
        _use(name, about),
        "",
        "## Limits",
        "",
        *(f"- {note}" for note in analysis["notes"]),
        "- it was not validated for decisions about single people: that needs a study of its own",
    ]
    return "\n".join(lines) + "\n"


def _facts(name: str, analysis: Mapping[str, Any]) -> list[str]:
    about, provenance = analysis["model"]["about"], analysis["provenance"]
    return [
        "| | |",
        "|---|---|",
        f"| question | {analysis['question']} |",
        f"| predicts | {_predicts(about)} |",
        f"| trained on | dataset `{provenance['dataset']}`,"
        f" contract version {provenance['contract_version']}"
        f" (`{provenance['contract_hash'][:12]}`), "
        f"{analysis['n'].get('people')} people at {len(provenance['nodes'])} nodes,"
        " some of them kept for validation |",
        f"| strategy | {about['strategy']}, {analysis['rounds']} rounds |",
        f"| protection | {analysis['protection']} |",
        f"| file | `{name}.safetensors`, SHA-256 `{analysis['model']['sha256']}` |",
    ]


def _predicts(about: Mapping[str, Any]) -> str:
    outcome = f"`{about['outcome']}`"
    learns = about.get("learns", "yes_no")
    if learns == "classes":
        return f"the log-odds of each class of {outcome}, in this order: " + ", ".join(
            about["classes"]
        )
    if learns == "number":
        return (
            f"{outcome}: {about['outcome_centre']:g} plus {about['outcome_divisor']:g} times the"
            " number that the network gives"
        )
    if learns == "hazards":
        ends = ", ".join(f"{end:g}" for end in about["edges"])
        return f"the log-odds of {outcome} in each interval of time between {ends}"
    if learns == "cox":
        return (
            f"the log of the relative hazard of {outcome}; the baseline hazards of the intervals"
            " of time are in `about.hazards` of result.json"
        )
    return f"the log-odds of {outcome}"


def _validation(tables: Mapping[str, Any]) -> list[str]:
    glance = (tables.get("glance") or [{}])[0]
    lines = [
        f"- {key.replace('_', ' ')}: {_figure(value)}"
        for key, value in glance.items()
        if value is not None
    ]
    nodes = tables.get("nodes") or ()
    measure = next((name for name in MEASURES if nodes and name in nodes[0]), "auc")
    if nodes:
        lines += ["", f"| node | n | {MEASURES[measure]} | 95 % interval |", "|---|---|---|---|"]
    for row in nodes:
        n, value = _figure(row.get("n")), _figure(row.get(measure))
        lines.append(f"| {row['node']} | {n} | {value} | {_ends(row)} |")
    return lines


def _figure(value: Any) -> str:
    if value is None:
        return "withheld"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ends(row: Mapping[str, Any]) -> str:
    return "" if row.get("conf_low") is None else f"{row['conf_low']:.3f} to {row['conf_high']:.3f}"


def _use(name: str, about: Mapping[str, Any]) -> str:
    net = network(about)
    is_array = len(net.shape) > 1
    columns = ", ".join(f"`{term}`" for term in about["inputs"])
    inputs = f"`{about['inputs'][0]}`" if is_array else f"the columns {columns}"
    centre, divisor = (about[key][0] if is_array else about[key] for key in ("centre", "divisor"))
    shape = {
        "cnn": "(n, 1, height, width)",
        "cnn1d": "(n, channels, times)",
        "gru": "(n, times, channels)",
    }.get(net.kind, "(n, columns)")
    strict = ", strict=False" if net.norm == "node" else ""
    lines = [
        f"The network takes {inputs}, minus `{centre}`, divided by `{divisor}`, of shape {shape}."
        " In plain PyTorch:",
        "",
        "```python",
        "from safetensors.torch import load_file",
        "from torch import nn",
        "",
        networks.source(net),
        f"net.load_state_dict(load_file('{name}.safetensors'){strict})",
        "```",
    ]
    if net.norm == "node":
        lines += [
            "",
            "Its normalisation stays at each node:"
            " run it in training mode over your own data once, before use.",
        ]
    if about["scale"] == "node":
        lines += [
            "",
            "Each node scaled its inputs to mean 0 and standard deviation 1 over its own people:"
            " do the same.",
        ]
    return "\n".join(lines)
