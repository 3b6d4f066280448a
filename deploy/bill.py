"""The bill of materials (CycloneDX 1.6) and the licences of the wheels in a bundle."""

from __future__ import annotations

import json
import re
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name, parse_wheel_filename

LICENCE_FILE = re.compile(r"[^/]+\.dist-info/(?:.*/)?(LICEN[CS]E|COPYING|NOTICE)[^/]*$", re.I)
CLASSIFIER = "License :: "
MAX_LICENCE_NAME = 80  # characters; longer fields hold the licence itself


@dataclass(frozen=True)
class Package:
    """`licence`: as its author names it. `files`: SHA-256 by wheel."""

    name: str
    version: str
    licence: str
    summary: str
    files: Mapping[str, str]
    texts: Sequence[str]

    @property
    def project(self) -> str:
        """The name as the index spells it."""
        return canonicalize_name(self.name)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.project}@{self.version}"


def read(wheels: Iterable[Path], digests: Mapping[str, str]) -> list[Package]:
    """The packages of the wheels. `digests`: SHA-256 by the name of a wheel."""
    by_project: dict[tuple[str, str], list[Path]] = {}
    for wheel in sorted(wheels):
        name, version, _, _ = parse_wheel_filename(wheel.name)
        by_project.setdefault((name, str(version)), []).append(wheel)
    return [_package(files, digests) for files in by_project.values()]


def _package(wheels: Sequence[Path], digests: Mapping[str, str]) -> Package:
    with zipfile.ZipFile(wheels[0]) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        fields = HeaderParser().parsestr(archive.read(metadata).decode())
        texts = [
            archive.read(name).decode(errors="replace")
            for name in names
            if LICENCE_FILE.match(name)
        ]
    files = {wheel.name: digests[wheel.name] for wheel in wheels}
    return Package(
        fields["Name"], fields["Version"], licence_of(fields), fields["Summary"] or "", files, texts
    )


def licence_of(fields: Any) -> str:
    """The licence in a wheel's metadata: the expression, else the classifiers, else the field, if
    it is a name."""
    if expression := fields["License-Expression"]:
        return str(expression)
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in fields.get_all("Classifier", [])
        if text.startswith(CLASSIFIER) and text.count(" :: ") > 1
    ]
    field = (fields["License"] or "").strip()
    is_name = field and "\n" not in field and len(field) <= MAX_LICENCE_NAME
    return " AND ".join(classifiers) or (field if is_name else "see its licence file")


def document(packages: Sequence[Package], subject_name: str = "hdh-federation") -> dict[str, Any]:
    """The bill as CycloneDX. Its number is made from its content, so that the same bundle has the
    same bill."""
    components = [_component(package) for package in packages if package.project != subject_name]
    (subject,) = (package for package in packages if package.project == subject_name)
    digests = "".join(sorted(digest for package in packages for digest in package.files.values()))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digests)}",
        "version": 1,
        "metadata": {"component": _component(subject) | {"type": "application"}},
        "components": components,
        "dependencies": [
            {"ref": subject.purl, "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }


def _component(package: Package) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "description": package.summary,
        "purl": package.purl,
        "licenses": [{"license": {"name": package.licence}}],
        "components": [
            {
                "type": "file",
                "bom-ref": f"{package.purl}#{file}",
                "name": file,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for file, digest in package.files.items()
        ],
    }


def licences(packages: Sequence[Package]) -> str:
    """A list of the packages with their licences, followed by the texts."""
    width = max(len(f"{package.name} {package.version}") for package in packages)
    rows = [
        f"{f'{package.name} {package.version}':<{width}}  {package.licence}" for package in packages
    ]
    texts = [
        f"\n{'=' * 79}\n{package.name} {package.version}\n{'=' * 79}\n{text.strip()}"
        for package in packages
        for text in dict.fromkeys(package.texts)
    ]
    return "\n".join([*rows, *texts]) + "\n"


def write(folder: Path) -> None:
    """sbom.cdx.json and LICENCES.txt of the wheels in the folder's `wheels`."""
    from deploy.dist import digest

    wheels = sorted((folder / "wheels").iterdir())
    digests = {wheel.name: digest(wheel).removeprefix("sha256:") for wheel in wheels}
    packages = read(wheels, digests)
    text = json.dumps(document(packages), indent=1, ensure_ascii=False)
    (folder / "sbom.cdx.json").write_text(text + "\n", encoding="utf-8")
    (folder / "LICENCES.txt").write_text(licences(packages), encoding="utf-8")
