"""Replies of a given size over the real transport:
the nodes' app answers any query with random bytes.

    python -m benchmarks.large_replies STATE-OF-A-NODE BYTES

runs such a node.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from federation import credentials
from simulations.flower import Deployment

BUNDLE = {
    "pyproject.toml": """[project]
name = "large-replies"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "hdh"
[tool.flwr.app.components]
serverapp = "large.server_app:app"
clientapp = "large.client_app:app"
[tool.flwr.app.config]
directory = ""
job = ""
""",
    "large/__init__.py": "",
    "large/client_app.py": "from flwr.clientapp import ClientApp\n\napp = ClientApp()\n",
    "large/server_app.py": (
        "from benchmarks import large_replies\n\napp = large_replies.server_app()\n"
    ),
}


def measure(deployment: Deployment, size: int) -> float:
    """Seconds from one query to all replies. The deployment's nodes are replaced by ones that
    answer with `size` bytes."""
    from flwr.cli.build import build_fab_from_disk

    from aggregator.flower import control as flower_control
    from aggregator.flower.control import Control

    names = [name for name in deployment.processes if name != "hub"]
    for name in names:
        deployment.processes[name].terminate()
        deployment.processes[name].wait()
        deployment.start(
            name,
            [
                sys.executable,
                "-m",
                "benchmarks.large_replies",
                str(deployment.state(name)),
                str(size),
            ],
        )
    folder = deployment.folder / "bundle"
    for path, text in BUNDLE.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "large.fab").write_bytes(build_fab_from_disk(folder))
    flower_control.BUNDLE = folder / "large.fab"
    control = Control(
        deployment.hub.file.admin, deployment.hub.pki / "ca.crt", deployment.hub.token
    )
    flower_control.start(control, deployment.folder, json.dumps(len(names)))
    file, until = deployment.folder / "seconds", time.monotonic() + 300
    while not file.exists():
        assert time.monotonic() < until, "no result"
        time.sleep(0.1)
    return float(file.read_text())


def server_app() -> Any:
    from flwr.app import Context, Message
    from flwr.serverapp import Grid, ServerApp

    from aggregator.flower import (
        server_app as ours,  # which makes Flower look again sooner for what is not there yet
    )
    from federation import wire

    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        assert ours.app
        wanted = int(json.loads(str(context.run_config["job"])))
        while len(list(grid.get_node_ids())) < wanted:
            time.sleep(0.1)
        start = time.monotonic()
        waiting = set(
            grid.push_messages(
                [
                    Message(wire.query_record(b"x", b"y"), dst_node_id=i, message_type=wire.ROUND)
                    for i in grid.get_node_ids()
                ]
            )
        )
        while waiting:
            for message in grid.pull_messages(list(waiting)):
                waiting.remove(message.metadata.reply_to_message_id)
                assert len(wire.reply_of(message)[0]) > 10_000_000
            time.sleep(0.1)
        part = Path(str(context.run_config["directory"])) / "seconds"
        part.write_text(str(time.monotonic() - start))

    return app


def node(state: Path, size: int) -> None:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from federation import wire
    from nodes.flower import client as flower_client

    app, content = ClientApp(), os.urandom(size)

    @app.query("round")  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        return Message(wire.reply_record(content, b"z"), reply_to=message)

    class Anything(frozenset):  # type: ignore[type-arg]
        def __contains__(self, _: object) -> bool:
            return True

    flower_client.KNOWN_BUNDLES = Anything()
    credential = credentials.load(state / "hub")
    link = flower_client.Link(
        credential.fleet, credential.folder / "ca.crt", credential.key, credential.flower_id
    )
    flower_client.serve(
        app, link, threading.Event(), flower_client.Pace(idle_s=0.3), lambda rule, why: None
    )


if __name__ == "__main__":
    node(Path(sys.argv[1]), int(sys.argv[2]))
