"""The catalog: all rows, what they promise, and how papers are found and cited."""
from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import rheos
from rheos.papers import catalog, results, runner

PARTS = sorted({part for paper in catalog.papers() for part in paper.parts})


def resolve(part: str) -> object:
    """The object behind a dotted name: the longest importable module, then attributes."""
    words = part.split(".")
    for cut in range(len(words), 0, -1):
        try:
            found: object = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError as error:
            if error.name is None or not part.startswith(error.name):
                raise
            continue
        for word in words[cut:]:
            found = getattr(found, word)
        return found
    raise ImportError(part)


def test_every_row_is_there_once_and_well_formed():
    rows = catalog.papers()
    assert [paper.number for paper in rows] == list(range(204))
    assert len({paper.slug for paper in rows}) == 204
    arxiv = [paper.arxiv for paper in rows if paper.arxiv]
    assert len(set(arxiv)) == len(arxiv)
    for paper in rows:
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", paper.slug)
        assert paper.title and paper.title == paper.title.strip()
        assert not paper.arxiv or re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
        assert re.fullmatch(r"[a-z]+", paper.room)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_a_public_name_that_exists(part):
    assert re.fullmatch(r"rheos(\.[A-Za-z]\w*){2,}", part)                    # no private names, and a room before the name
    assert resolve(part) is not None
    public = importlib.import_module(".".join(part.split(".")[:2])).__all__
    assert part.split(".")[2] in public


def test_what_is_built_has_a_claim_in_its_room_and_the_other_way_round():
    claims = runner.find_claims()
    built = {paper.slug: paper.room for paper in catalog.papers() if paper.built}
    assert built == {slug: file.parent.name for slug, file in claims.items()}


@pytest.mark.parametrize("name", ["light_sb", "Light-SB", 6, "6", "2310.01174", "arXiv:2310.01174v3", "https://arxiv.org/abs/2310.01174"])
def test_finds_a_paper_by_any_of_its_names(name):
    paper = catalog.find(name)
    assert (paper.number, paper.slug, paper.title) == (6, "light_sb", "Light Schrödinger Bridge")


@pytest.mark.parametrize(("name", "said"), [
    ("dies", "did you mean 'deis'"), ("stochastic_interpolant", "did you mean 'stochastic_interpolants'"),
    (204, "from 0 to 203"), ("-1", "no paper '-1'"), ("2204.99999", "no paper '2204.99999'"), ("", "no paper ''"),
])
def test_refuses_an_unknown_paper_with_the_nearest(name, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        catalog.find(name)


@pytest.mark.parametrize(("text", "first"), [
    ("schrodinger bridge light", "light_sb"), ("SCHRÖDINGER light", "light_sb"), ("exponential integrator", "deis"),
    ("deis", "deis"), ("2303.08797", "stochastic_interpolants"), ("unifying framework flows diffusions", "stochastic_interpolants"),
    ("homeosta", "ep_homeostasis"),
])
def test_search_puts_the_paper_meant_first(text, first):
    assert catalog.search(text)[0].slug == first


def test_search_keeps_only_the_best_matches_and_may_find_none():
    found = catalog.search("interpolants")
    assert found and all("interpolants" in paper.title.lower() for paper in found)
    # Every title with "for" would match one of the two words; only those with both, or the best of them, are wanted.
    assert len(catalog.search("interpolants for")) <= len(found)
    assert {paper.room for paper in catalog.search("causal") if paper.room == "causal"} == {"causal"}
    assert catalog.find("light_sb") in catalog.search("schrodinger") == catalog.search("SCHRÖDINGER")
    assert catalog.search("zzzzq") == []
    with pytest.raises(ValueError, match="must hold a word"):
        catalog.search(" ,; ")


@pytest.mark.parametrize("part", ["DEIS", "samplers.DEIS", "rheos.samplers.DEIS"])
def test_cites_a_part_by_as_much_of_its_name_as_is_given(part):
    (entry,) = catalog.cite(part)
    assert entry.startswith("@misc{deis,\n") and entry.endswith("\n}")
    assert "title = {{Fast Sampling of Diffusion Models with Exponential Integrator}}" in entry
    assert "eprint = {2204.13902}" in entry and "year = {2022}" in entry


def test_a_class_answers_for_its_methods_and_a_short_name_for_its_home():
    slugs = lambda part: [entry.split(",")[0].removeprefix("@misc{") for entry in catalog.cite(part)]
    assert slugs("paths.Path") == ["stochastic_interpolants", "kinetic_optimal_paths"]
    assert slugs("rheos.Field") == slugs("rheos.paths.Field") == ["stochastic_interpolants"]
    # By reading the catalog's own file: a room answers for all papers with a part in it.
    rows = tomllib.loads((Path(rheos.__file__).parent / "papers" / "catalog.toml").read_text())["paper"]
    within = [row["slug"] for row in rows if any(part.startswith("rheos.samplers.") for part in row["parts"])]
    assert slugs("samplers") == within and {"stochastic_interpolants", "dpm_solver_pp", "deis", "bdia"} <= set(within)


@pytest.mark.parametrize(("part", "said"), [
    ("DESI", "did you mean rheos.samplers.DEIS"), ("deis", "did you mean rheos.samplers.DEIS"), ("DEI", "DEIS"),
    ("Quux", "'Quux'"), ("", "''"),
])
def test_cites_nothing_by_half_a_word(part, said):
    with pytest.raises(ValueError, match=f"no paper in the catalog names the part.*{re.escape(said)}"):
        catalog.cite(part)


def test_bibtex_escapes_what_tex_would_read_and_leaves_out_what_is_unknown():
    paper = catalog.Paper(7, "odd", "Gains of 5% & more", "", "nets", ())
    assert paper.bibtex == "@misc{odd,\n  title = {{Gains of 5\\% \\& more}}\n}"


def test_status_tells_built_from_measured(tmp_path):
    assert results.status(catalog.find("gdss"), tmp_path) == "not built"
    assert results.status(catalog.find("deis"), tmp_path) == "not measured"
    counts = results.board(tmp_path)
    assert counts["not measured"] == sum(paper.built for paper in catalog.papers()) and counts.total() == 204
