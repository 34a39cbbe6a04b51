"""The graph of Debian's packages: who needs whom, with sections as labels and one line of text a package."""
from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import zlib
from functools import partial
from pathlib import Path

import torch

from rheos.data.cache import cached
from rheos.data.graphs import GraphData
from rheos.data.named.named import Named
from rheos.data.named.parcels import PackageLists

__all__ = ["DEBIAN", "RELATIONS", "packages", "read"]

RELATIONS = ("Depends", "Pre-Depends", "Recommends", "Suggests")
WANTED = ("Package", "Section", "Description", *RELATIONS)
SNAPSHOT = "Packages.gz"


def packages(text: str) -> dict[str, dict[str, str]]:
    """The wanted fields of every package of a list in Debian's control format, by the package's name; of several versions the first counts.

    >>> packages("Package: a\\nDepends: b (>= 2),\\n c\\n\\nPackage: b\\nSize: 3\\n")
    {'a': {'Depends': 'b (>= 2), c'}, 'b': {}}
    """
    found: dict[str, dict[str, str]] = {}
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        field = ""
        for line in stanza.split("\n"):
            if line[:1] in (" ", "\t"):
                if field in RELATIONS:                  # of a long description the first line is enough
                    fields[field] += f" {line.strip()}"
                continue
            field, _, value = line.partition(":")
            if field in WANTED:
                fields[field] = value.strip()
        if name := fields.pop("Package", None):
            found.setdefault(name, fields)
    return found


def named_in(relation: str) -> list[str]:
    """The packages that a relation names, without versions and architectures; alternatives ("a | b") all count.

    >>> named_in("libc6 (>= 2.34), python3:any | pypy3, perl")
    ['libc6', 'python3', 'pypy3', 'perl']
    """
    return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]*)", relation)


def read(folder: Path) -> GraphData:
    """An edge (i, j) of "Depends", "Pre-Depends", "Recommends" or "Suggests" says that package i names package j there; packages that no list
    holds (virtual ones) are left out. y is the section, the archive's area taken away; a text is the first line of the description.

    folder: apt's own lists, or one with Packages.gz, a snapshot.
    """
    snapshot = folder / SNAPSHOT
    files = {SNAPSHOT: snapshot} if snapshot.is_file() else {file.name: file for file in sorted(folder.glob("*_Packages*")) if file.is_file()}

    def build():
        found = packages(unpacked(snapshot) if snapshot.is_file() else available())
        if not found:
            raise ValueError(f"{folder}: lists no package")
        nodes = sorted(found)
        number = {name: i for i, name in enumerate(nodes)}
        tensors = {}
        for relation in RELATIONS:
            pairs = sorted({(i, number[other]) for i, name in enumerate(nodes) if relation in found[name]
                            for other in named_in(found[name][relation]) if other in number})
            tensors[relation] = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()
        sections = [found[name].get("Section", "unknown").split("/")[-1] for name in nodes]
        labels = sorted(set(sections))
        place = {label: i for i, label in enumerate(labels)}
        tensors["y"] = torch.tensor([place[section] for section in sections])
        return tensors, {"nodes": nodes, "labels": labels, "texts": [found[name].get("Description", "") for name in nodes]}

    tensors, about = cached("debian", files, {}, build)
    edges = {relation: tensors[relation] for relation in RELATIONS}
    return GraphData("debian", tuple(about["nodes"]), edges, tensors["y"], tuple(about["labels"]), tuple(about["texts"]))


def unpacked(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is no whole gzip file ({error})") from error


def available() -> str:
    """What apt knows, from its own lists."""
    if shutil.which("apt-cache") is None:
        raise ValueError("apt-cache is not on this machine, and Debian's lists are read with it")
    done = subprocess.run(["apt-cache", "dumpavail"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"apt-cache dumpavail failed: {' '.join(done.stderr.decode(errors='replace').split())}")
    return done.stdout.decode("utf-8", errors="replace")


DEBIAN = Named(
    name="debian",
    what="graph of Debian's packages",
    meaning="Debian's packages and whom they depend on, recommend and suggest; the label is the section, the text the description's first line",
    licence="facts of Debian's archive; a description is under its package's licence",
    source="the package lists of the Debian release that the machine runs; counts move with the archive",
    rows="about 63,666 nodes, 300,547 edges",
    shape="a graph, no rows",
    apart="none",
    reader=read,
    files=("*Packages*",),
    place=partial(Path, "/var/lib/apt/lists"),
    parcel=PackageLists("", (("", SNAPSHOT),), 300),
)
