"""A trained network as files: its weights in the safetensors format, and a card that says what it is and how to use it."""

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


def network(about: Mapping[str, Any]) -> Network:
    return Network(about["network"], tuple(about["shape"]), tuple(about["widths"]), about["norm"])


def document(model: TrainedModel) -> dict[str, Any]:
    """What goes into result.json: `about`, and the file itself in base64."""
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
            f"the model of {name!r} is not the one that was released: its hash differs; get the result again"
        )
    (folder / f"{name}.safetensors").write_bytes(content)
    (folder / f"{name}.md").write_text(card, encoding="utf-8")


def load(path: Path) -> Any:
    """The trained torch module of a released file, in evaluation mode. It takes (n, *shape) rows, scaled as its card says."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "hdh" not in metadata:
        raise errors.InputError(
            f"{path}: no network of ours; give the .safetensors file that a study has released"
        )
    net = networks.build(network(json.loads(metadata["hdh"])))
    net.load_state_dict(
        load_file(path), strict=False
    )  # layers that stay at their node are not in it
    return net.eval()


def card(name: str, told: Mapping[str, Any]) -> str:
    """The model card, in Markdown, of an analysis as result.json has it, with `study`, `title`, `provenance` beside it."""
    about, glance = told["model"]["about"], (told["tables"].get("glance") or [{}])[0]
    lines = [f"# {name}: {about['network']} of study {told['study']}", "", told["title"], ""]
    lines += [
        "| | |",
        "|---|---|",
        f"| question | {told['question']} |",
        f"| predicts | the log-odds of `{about['outcome']}` |",
        f"| trained on | dataset `{told['provenance']['dataset']}`, contract version {told['provenance']['contract_version']} (`{told['provenance']['contract_hash'][:12]}`), "
        f"{told['n'].get('people')} people at {len(told['provenance']['nodes'])} nodes, some of them kept for validation |",
        f"| strategy | {about['strategy']}, {told['rounds']} rounds |",
        f"| protection | {told['protection']} |",
        f"| file | `{name}.safetensors`, SHA-256 `{told['model']['sha256']}` |",
        "",
        "## In validation",
        "",
    ]
    lines += [
        f"- {key.replace('_', ' ')}: {_figure(value)}"
        for key, value in glance.items()
        if value is not None
    ]
    if told["tables"].get("nodes"):
        lines += ["", "| node | n | area under the curve | 95 % interval |", "|---|---|---|---|"]
        lines += [
            f"| {row['node']} | {_figure(row.get('n'))} | {_figure(row.get('auc'))} | {_ends(row)} |"
            for row in told["tables"]["nodes"]
        ]
    lines += ["", "## Use", "", _use(name, about), "", "## What it is not", ""]
    lines += [
        f"- {note}"
        for note in (
            *told["notes"],
            "it was not validated for decisions about single people: that needs a study of its own",
        )
    ]
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    return (
        "withheld" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    )


def _ends(row: Mapping[str, Any]) -> str:
    return "" if row.get("conf_low") is None else f"{row['conf_low']:.3f} to {row['conf_high']:.3f}"


def _use(name: str, about: Mapping[str, Any]) -> str:
    made = network(about)
    inputs = (
        f"`{about['inputs'][0]}`"
        if len(made.shape) > 1
        else "the columns " + ", ".join(f"`{term}`" for term in about["inputs"])
    )
    centre, divisor = (
        about[key][0] if len(made.shape) > 1 else about[key] for key in ("centre", "divisor")
    )
    shape = {
        "cnn": "(n, 1, height, width)",
        "cnn1d": "(n, channels, times)",
        "gru": "(n, times, channels)",
    }.get(made.kind, "(n, columns)")
    more = (
        "\n\nIts normalisation stays at each node: run it in training mode over your own data once, before use."
        if made.norm == "node"
        else ""
    )
    more += (
        "\n\nEach node had brought its inputs to mean 0 and standard deviation 1 of its own people: do the same."
        if about["scale"] == "node"
        else ""
    )
    return (
        f"The network takes {inputs}, less `{centre}`, divided by `{divisor}`, of shape {shape}. In plain PyTorch:\n\n```python\nfrom safetensors.torch import load_file\n"
        f"from torch import nn\n\n{networks.source(made)}\nnet.load_state_dict(load_file('{name}.safetensors'){', strict=False' if made.norm == 'node' else ''})\n```{more}"
    )
