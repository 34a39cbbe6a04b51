"""The catalog: every paper with its number, slug, title, arXiv number, room, and the parts of rheos that implement it.

The rows are `catalog.toml`; this module reads them and answers three questions: which paper is this (`find`), which papers are
about this (`search`), and which papers should somebody cite who uses this part (`cite`). It needs the standard library only.
"""
from __future__ import annotations

import difflib
import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import rheos

__all__ = ["Paper", "cite", "find", "hint", "papers", "search"]

ARXIV = re.compile(r"(?:arxiv:|https?://arxiv\.org/(?:abs|pdf)/)?(\d{4}\.\d{4,5})(?:v\d+)?(?:\.pdf)?")


@dataclass(frozen=True)
class Paper:
    """One row of the catalog.

    number: the paper's number here, 0 and up. slug: its short name, lower case with underscores. title: as printed on the paper.
    arxiv:  its arXiv number without version, "" where it has none. room: the room of rheos it belongs to.
    parts:  dotted public names that implement it, such as "rheos.samplers.DEIS"; empty where nothing is built yet.

    >>> find("deis").arxiv, find("deis").built
    ('2204.13902', True)
    """

    number: int
    slug: str
    title: str
    arxiv: str
    room: str
    parts: tuple[str, ...]

    @property
    def built(self) -> bool:
        """Whether some part of rheos implements this paper."""
        return bool(self.parts)

    @property
    def year(self) -> int | None:
        """Year of the first arXiv version, read off the number; None without one."""
        return 2000 + int(self.arxiv[:2]) if self.arxiv else None

    @property
    def bibtex(self) -> str:
        """A BibTeX entry with what the catalog knows; the catalog holds no author lists, so the entry names none."""
        title = re.sub(r"([&%$#_])", r"\\\1", self.title)
        fields = [f"  title = {{{{{title}}}}}"]
        if self.arxiv:
            fields += [f"  year = {{{self.year}}}", f"  eprint = {{{self.arxiv}}}", "  archivePrefix = {arXiv}",
                       f"  url = {{https://arxiv.org/abs/{self.arxiv}}}"]
        return f"@misc{{{self.slug},\n" + ",\n".join(fields) + "\n}"


@functools.cache
def papers() -> tuple[Paper, ...]:
    """All papers, by number.

    >>> len(papers())
    204
    """
    text = resources.files("rheos.papers").joinpath("catalog.toml").read_text(encoding="utf-8")
    rows = [Paper(**{**row, "parts": tuple(row["parts"])}) for row in tomllib.loads(text)["paper"]]
    return tuple(sorted(rows, key=lambda paper: paper.number))


def hint(word: str, known: Iterable[str]) -> str:
    """"; did you mean 'a' or 'b'?" for the known words nearest to `word`, "" when none is near."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def find(name: str | int) -> Paper:
    """The paper with this slug, number or arXiv number ("arXiv:2204.13902v2" and its address are fine too).

    ValueError with the nearest slugs when there is none.

    >>> find(66).slug, find("66").slug, find("arXiv:2204.13902v2").slug
    ('deis', 'deis', 'deis')
    """
    word = str(name).strip().lower()
    arxiv = ARXIV.fullmatch(word)
    if arxiv:
        matches = [paper for paper in papers() if paper.arxiv == arxiv[1]]
    elif word.isdecimal():
        matches = [paper for paper in papers() if paper.number == int(word)]
    else:
        matches = [paper for paper in papers() if paper.slug == word.replace("-", "_")]
    if matches:
        return matches[0]
    if arxiv or word.isdecimal():
        last = papers()[-1].number
        raise ValueError(f"no paper {name!r} in the catalog, whose numbers run from 0 to {last}; try rheos papers search TEXT")
    near = hint(word.replace("-", "_"), [paper.slug for paper in papers()])
    raise ValueError(f"no paper {name!r} in the catalog{near or '; try rheos papers search TEXT'}")


def search(text: str) -> list[Paper]:
    """Papers that match the most words of `text` in title, slug, room or arXiv number, the best first; accents do not matter.

    ValueError when `text` holds no word. No match gives an empty list.

    >>> search("exponential integrator")[0].slug
    'deis'
    """
    words = _words(text)
    if not words:
        raise ValueError(f"text must hold a word to search for, got {text!r}")
    ranked = []
    for paper in papers():
        scores = [_score(word, paper) for word in words]
        found = sum(score > 0 for score in scores)
        if found:
            ranked.append((-found, -sum(scores), paper.number, paper))
    ranked.sort(key=lambda row: row[:3])
    # A paper that matches fewer words than the best one is noise: "flows for images" would list every "for".
    return [row[-1] for row in ranked if row[0] == ranked[0][0]]


def cite(part: str) -> list[str]:
    """BibTeX entries of the papers that a part implements, by number.

    part: a dotted name, as much of it as tells it apart: "DEIS", "samplers.DEIS", "rheos.samplers.DEIS"; a class also answers for its
    methods, a room for all in it. ValueError with the nearest parts when no paper names it.

    >>> print(cite("samplers.DEIS")[0].splitlines()[0])
    @misc{deis,
    """
    name = part.strip()
    if name.startswith("rheos.") and name.removeprefix("rheos.") in rheos.NAMES:         # rheos.Field is rheos.paths.Field
        name = f"rheos.{rheos.NAMES[name.removeprefix('rheos.')]}.{name.removeprefix('rheos.')}"
    entries = [paper.bibtex for paper in papers() if name and any(f".{name}." in f".{full}." for full in paper.parts)]
    if entries:
        return entries
    known = {full for paper in papers() for full in paper.parts}
    last = {full.rsplit(".", 1)[-1]: full for full in sorted(known)}
    lower = {short.lower(): short for short in last}
    near = [lower[word] for word in difflib.get_close_matches(name.rsplit(".", 1)[-1].lower(), list(lower), n=3, cutoff=0.6)]
    told = f"; did you mean {' or '.join(last[short] for short in near)}?" if near else ""
    raise ValueError(f"no paper in the catalog names the part {part!r}{told}")


def _plain(text: str) -> str:
    """Lower case without accents."""
    return "".join(sign for sign in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(sign))


def _words(text: str) -> list[str]:
    return [word for word in (found.strip(".") for found in re.findall(r"[a-z0-9.]+", _plain(text))) if word]


def _score(word: str, paper: Paper) -> int:
    """How well one word fits: the whole slug or number best, then a whole word of slug, title, room, then a beginning, then any piece."""
    if word in (paper.slug, paper.arxiv):
        return 20
    title, slug = _words(paper.title), paper.slug.split("_")
    if word in slug or word in title:
        return 8 if word in slug and word in title else 6
    if word == paper.room:
        return 4
    if len(word) > 1 and any(other.startswith(word) for other in [*title, *slug]):
        return 3
    return 1 if len(word) > 2 and (word in _plain(paper.title) or word in paper.slug or word in paper.arxiv) else 0
