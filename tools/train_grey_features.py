"""Learn the classifier whose hidden layer `metrics.grey_features` ships: python tools/train_grey_features.py

It sees the training rows of Fashion-MNIST and MNIST only, digits twice as often as there are of them, moved by up to one pixel. Both sets
must be on the machine (rheos data bring fashion_mnist, rheos data bring mnist). Seeded: the same machine and torch give the same file. About
five minutes of CPU.
"""
from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rheos.core import Draws
from rheos.data import Dataset, load
from rheos.metrics.grey import SIDE, WEIGHTS, GreyFeatures

STEPS, BATCH, LEARNING_RATE, DECAY, SMOOTHING = 5600, 128, 2e-3, 1e-2, 0.05
SATURATION = 0.1                    # weight of the features' mean square: without it tanh saturates, and features tell little but the class
CLOTHES_MOVED, DIGITS_MOVED = 0.2, 0.6      # shares of images that are moved; the rest are seen as they are, as they will be judged
DIGITS_TIMES = 2                    # how often a digit stands in the list of rows: there are eight times as many clothes
WARM = 0.1                          # share of the steps over which the learning rate rises; then it falls to 0 by a cosine


def moved(x: Tensor, share: Tensor, draws: Draws, step: int) -> Tensor:
    """Some of the images moved by -1, 0 or 1 pixel on each axis, with background (-1) drawn in."""
    move = draws.integers("shift", step, (len(x), 2), 3)
    move = torch.where(draws.uniform("moved", step, (len(x), 1)) < share[:, None], move, 1)
    padded = nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    rows = move[:, :1] + torch.arange(SIDE)
    columns = move[:, 1:] + torch.arange(SIDE)
    return padded[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def learned(clothes: Dataset, digits: Dataset, seed: int) -> GreyFeatures:
    draws = Draws(seed)
    with draws.scope(0):
        net = GreyFeatures()
    x, y = torch.cat([clothes.x, digits.x]), torch.cat([clothes.y, digits.y + 10])
    listed = torch.cat([torch.arange(len(clothes)), (len(clothes) + torch.arange(len(digits))).repeat(DIGITS_TIMES)])
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, STEPS, pct_start=WARM)
    for step in range(STEPS):
        rows = listed[draws.batch("batch", step, len(listed), BATCH)]
        share = torch.where(y[rows] < 10, CLOTHES_MOVED, DIGITS_MOVED)
        features = net(moved(x[rows], share, draws, step))
        loss = nn.functional.cross_entropy(net.classes(features), y[rows], label_smoothing=SMOOTHING) + SATURATION * features.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def right(net: GreyFeatures, data: Dataset, first: int) -> int:
    """How many rows are put into their class."""
    return sum(int((net.classify(x).argmax(1) == y + first).sum()) for x, y in zip(data.x.split(1000), data.y.split(1000), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    clothes, digits = load("fashion_mnist"), load("mnist")
    begun = time.process_time()
    net = learned(clothes, digits, chosen.seed)
    spent = time.process_time() - begun
    weights = {name: value.half() for name, value in net.state_dict().items()}
    for name, exact in (("as learned", net.state_dict()), ("as stored, float16", weights)):
        net.load_state_dict({key: value.float() for key, value in exact.items()})
        found = {part.name: (right(net, part, first), len(part)) for part, first in ((clothes.held_out, 0), (digits.held_out, 10))}
        print(f"{name}: " + ", ".join(f"{part} {count / of:.4f} ({count} of {of})" for part, (count, of) in found.items()))
    features = net(clothes.held_out.x[:2000]).abs()
    print(f"|feature|: median {features.median():.3f}, largest {features.max():.3f}; {spent:.0f} s of CPU time")
    about = {"made_by": "tools/train_grey_features.py", "seed": chosen.seed, "right": {part: count for part, (count, _) in found.items()}}
    partial = chosen.out.with_name(chosen.out.name + ".partial")
    save_file(weights, partial, metadata={"about": json.dumps(about)})        # one entry: safetensors writes several in any order
    partial.chmod(0o644)
    os.replace(partial, chosen.out)
    print(f"wrote {chosen.out.name}, {chosen.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
