"""Learn the classifier whose hidden layer `metrics.digit_features` ships: python tools/train_digit_features.py

It sees the training half of the digits only, each image shifted by up to one pixel. Seeded: the same machine and torch give the same file.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rheos.core import Draws
from rheos.data import load
from rheos.metrics.features import WEIGHTS, DigitFeatures

STEPS, BATCH, LEARNING_RATE, DECAY, SMOOTHING = 1200, 128, 3e-3, 1e-2, 0.05
SATURATION = 0.1        # weight of the features' mean square: without it tanh saturates, and features tell little but the class
SHIFT_SHARE = 0.5       # share of images that are moved; the rest are seen as they are, as they will be judged


def shifted(x: Tensor, draws: Draws, step: int) -> Tensor:
    """Some of the images moved by -1, 0 or 1 pixel on each axis, with paper (-1) drawn in."""
    move = draws.integers("shift", step, (len(x), 2), 3)
    move = torch.where(draws.uniform("moved", step, (len(x), 1)) < SHIFT_SHARE, move, 1)
    padded = nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    rows = move[:, :1] + torch.arange(8)
    columns = move[:, 1:] + torch.arange(8)
    return padded[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def learned(x: Tensor, y: Tensor, seed: int) -> DigitFeatures:
    draws = Draws(seed)
    with draws.scope(0):
        net = DigitFeatures()
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        rows = draws.batch("batch", step, len(x), BATCH)
        features = net(shifted(x[rows], draws, step))
        loss = nn.functional.cross_entropy(net.classes(features), y[rows], label_smoothing=SMOOTHING) + SATURATION * features.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = load("digits")
    net = learned(data.x, data.y, chosen.seed)
    right = lambda part: int((net.classify(part.x).argmax(1) == part.y).sum())
    known, unseen, features = right(data), right(data.held_out), net(data.held_out.x).abs()
    print(f"accuracy: training {known / len(data):.4f}, held out {unseen / len(data.held_out):.4f} ({unseen} of {len(data.held_out)}); "
          f"|feature|: median {features.median():.3f}, largest {features.max():.3f}")
    about = {"made_by": "tools/train_digit_features.py", "seed": str(chosen.seed), "held_out_right": str(unseen)}
    partial = chosen.out.with_name(chosen.out.name + ".partial")
    save_file(net.state_dict(), partial, metadata=about)
    partial.chmod(0o644)
    os.replace(partial, chosen.out)
    print(f"wrote {chosen.out.name}")


if __name__ == "__main__":
    main()
