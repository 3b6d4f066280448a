"""The systemd unit of a daemon: what it may write, and what it may not ask of the kernel."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from federation import errors, language

# Not MemoryDenyWriteExecute: torch and the callbacks of ctypes make code at run time. Not
# ProcSubset: libraries of linear algebra read /proc/cpuinfo.
HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""


@dataclass(frozen=True)
class Daemon:
    """`name`: hdh-node or hdh-hub. `arguments`: those of `hdh`. `after`: units that start before
    it, if they are there. `memory`: the most that it may use."""

    name: str
    description: str
    arguments: Sequence[str]
    folder: Path
    memory: str
    after: Sequence[str] = ()


def unit(daemon: Daemon, user: str) -> str:
    """A unit that starts the daemon at boot, restarts it whenever it ends, and lets it write to its
    own folder only, in the language of whoever asks for the unit. InputError if its paths cannot
    stand in a unit."""
    command = [str(Path(sys.executable).parent / "hdh"), *daemon.arguments]
    for word in (*command, str(daemon.folder), user):
        if shlex.quote(word) != word or "%" in word:
            raise errors.InputError(
                f"{word!r} cannot stand in a systemd unit; choose a path or a name of letters,"
                " digits and ._-/"
            )
    noun, file = daemon.name.removeprefix("hdh-"), f"/etc/systemd/system/{daemon.name}.service"
    code = language.current()  # the notices that the daemon sends are read by the same people
    spoken = f"Environment=HDH_LANG={code}\n" if code != "en" else ""
    after = " ".join(["network-online.target", "time-sync.target", *daemon.after])
    return f"""\
# systemd unit of the {noun} in {daemon.folder}
#   hdh {noun} unit > {file} && systemctl enable --now {daemon.name}
[Unit]
Description={daemon.description}
Wants=network-online.target time-sync.target
After={after}
StartLimitIntervalSec=0

[Service]
ExecStart={" ".join(command)}
WorkingDirectory={daemon.folder}
{spoken}User={user}
Restart=always
RestartSec=5
KillSignal=SIGTERM
TimeoutStopSec=60
MemoryMax={daemon.memory}
ReadWritePaths={daemon.folder}
{HARDENING}
[Install]
WantedBy=multi-user.target
"""
