"""A producer's rules about code that does not come with hdh: none of it runs here unless the policy
names it, and only the code whose hash the coordinator has signed."""

from __future__ import annotations

from federation import extensions
from federation.extensions import Extension
from federation.messages import Refusal
from federation.study import Study
from nodes.site import Site
from strategies import installed

RULE = "extension"
ANY = "any"


def analyses_of(study: Study) -> frozenset[str]:
    """The names of a study's analyses that are installed here beside those of hdh."""
    analyses = (key.partition(".")[::2] for key in installed.used(study))
    return frozenset(
        name
        for kind, name in analyses
        if kind == "analyses" and extensions.find(f"{kind}.{name}") is not None
    )


def refusal(study: Study, site: Site) -> Refusal | None:
    """Why the study may not run here with its extensions; decided before any of them is
    imported. A simulated producer has installed what the study uses, and allows it."""
    for key in installed.used(study):
        problem = _problem(key, study, site)
        if problem is not None:
            return Refusal(RULE, problem)
    return None


def _problem(key: str, study: Study, site: Site) -> str | None:
    extension = extensions.find(key)
    if extension is None and key.startswith("analyses."):
        return None  # an unknown analysis is refused by its name
    if extension is None:
        return f"{key} is not installed here: leave it out, or ask the producer to install it"
    if extension.problem:
        return f"{key} cannot be used here: its producer sees why with `hdh extensions`"
    if site.state is None:
        return None
    return _not_allowed(extension, study, site) or _other_code(extension, study)


def _not_allowed(extension: Extension, study: Study, site: Site) -> str | None:
    key, allowed = extension.key, site.policy.extensions.get(extension.key)
    if allowed is None:
        return (
            f"{key} is not allowed here: leave it out, or ask the producer to add it to"
            " `extensions` of the policy"
        )
    if allowed not in (ANY, extension.digest):
        return (
            f"{key} is allowed here with another hash than that of the code that is installed:"
            " ask the producer to compare them with `hdh extensions`"
        )
    at_node = not key.startswith("strategies.")
    if allowed == ANY and study.privacy.mode == "dp" and at_node:
        return (
            f"in mode dp {key} needs its hash in `extensions` of the policy, because people's"
            " privacy rests on its code: ask the producer, or use mode exact"
        )
    return None


def _other_code(extension: Extension, study: Study) -> str | None:
    signed = study.extensions.get(extension.key)
    if signed is None:
        return (
            f"the study does not state the hash of {extension.key}, so nodes with different code"
            " might add: submit it with `hdh study submit`, or write `extensions`"
        )
    if signed != extension.digest:
        return (
            f"another version of {extension.key} is installed here than the coordinator signed:"
            f" install the same ({extension.version} is here)"
        )
    return None


def describe(study: Study, site: Site) -> list[str]:
    """The extensions of a study for the producer's staff: their distribution, version and hash, and
    whether they may run here."""
    lines = []
    for key in installed.used(study):
        extension, problem = extensions.find(key), _problem(key, study, site)
        lines.append(f"extension {extension or key}: {problem or 'allowed by this policy'}")
        if extension is not None:
            lines.append(f"  hash here   {extension.digest}")
        lines.append(f"  hash signed {study.extensions.get(key, 'none')}")
    return lines
