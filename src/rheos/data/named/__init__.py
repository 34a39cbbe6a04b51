"""Data sets by name: found where an installed package keeps them, or where `rheos data bring` put them; nothing is fetched when they are read."""
from __future__ import annotations

from functools import partial

from rheos.data.digits import digits
from rheos.data.named.crawl import CRAWL
from rheos.data.named.debian import DEBIAN
from rheos.data.named.emoji import EMOJI
from rheos.data.named.fashion_mnist import FASHION_MNIST
from rheos.data.named.mnist import MNIST
from rheos.data.named.named import Named, module_folder
from rheos.data.named.parcels import CannotBring, bring
from rheos.data.named.simbench import SIMBENCH
from rheos.data.named.texts import FORTUNES, GCIDE, GLOSSES, STDLIB
from rheos.data.named.winds import WINDS

__all__ = ["NAMES", "CannotBring", "Named", "bring"]

DIGITS = Named(
    name="digits",
    what="grey handwritten digits, small",
    meaning="handwritten digits, 8 x 8 pixels; a pixel is the share of ink in its block, from -1 (paper) to 1 (ink)",
    licence="CC BY 4.0",
    source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part), as shipped by scikit-learn",
    rows="1,797",
    shape="(1, 8, 8)",
    apart="about half, by content",
    reader=lambda folder: digits(),
    files=("data/digits.csv.gz",),
    place=partial(module_folder, "sklearn", "datasets"),
)
NAMES: dict[str, Named] = {one.name: one for one in (
    DIGITS, FASHION_MNIST, MNIST, CRAWL, EMOJI, SIMBENCH, WINDS, DEBIAN, FORTUNES, STDLIB, GCIDE, GLOSSES,
)}
