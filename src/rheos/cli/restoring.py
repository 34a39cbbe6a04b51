"""`rheos restore`: what is missing in images, painted in by a model that learned such images and nothing about the task."""
from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rheos.cli.degrading import operator_of, read_picture
from rheos.cli.errors import Failure, Usage
from rheos.cli.options import place
from rheos.cli.runs import Run, check_writable, draws_from_noise, find_model, found_well, one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.models import Model

__all__ = ["restore"]

TASKS = ("inpaint", "superres", "colour")
METHODS = ("steered", "project", "flowchef")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")


def restore(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder, of images.", parser=place, metavar="RUN")],
    task: Annotated[str, typer.Option(help="inpaint (fill what --mask or --hole hides), superres (sharpen by --factor), colour (of grey images).")],
    images: Annotated[Path | None, typer.Option(help="Images to restore: a file, a folder or an .npy in the data's units, of the size and channels "
                                                     "that the task starts from.", show_default="held-out images of the run, degraded by the task",
                                                parser=place, metavar="<path>")] = None,
    mask: Annotated[Path | None, typer.Option(help="inpaint: a picture of the images' size, white where they are to be kept.", parser=place, metavar="<path>",
                                              show_default=False)] = None,
    hole: Annotated[float | None, typer.Option(help="inpaint: side of the hidden square in the middle, as a share of the image's.", show_default="0.5")] = None,
    factor: Annotated[int | None, typer.Option(help="superres: so many times wider and higher.", show_default="2")] = None,
    method: Annotated[str, typer.Option(help="steered (gradients through the network), project or flowchef (without, cheaper).")] = "steered",
    n: Annotated[int, typer.Option(help="How many held-out images.")] = 16,
    cond: Annotated[str | None, typer.Option(help="A class, where it is known what the images show.", show_default="not told")] = None,
    steps: Annotated[int, typer.Option(help="Steps from noise to data; steered and project make most of them several times.")] = 20,
    draws: Annotated[int, typer.Option(help="Answers averaged: more are smoother, and nearer on average.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the noise; other seeds give other answers that fit.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A .png with what was given, what was made and, where known, the truth; the images go beside it as .npy.",
                                             show_default="restored/ in the folder", parser=place, metavar="<path>")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Fill holes, sharpen or colour images with a learned flow of such images.

    Example: rheos restore run --task inpaint --hole 0.5
    """
    if task not in TASKS:
        raise Usage(f"--task must be one of {', '.join(TASKS)}, got {task!r}")
    if method not in METHODS:
        raise Usage(f"--method must be one of {', '.join(METHODS)}, got {method!r}")
    for option, value, needs in (("--mask", mask, "inpaint"), ("--hole", hole, "inpaint"), ("--factor", factor, "superres")):
        if value is not None and task != needs:
            raise Usage(f"{option} belongs to --task {needs}, not to {task}")
    if mask is not None and hole is not None:
        raise Usage("--mask and --hole both tell what to hide: give one")
    for option, value, least in (("--n", n, 1), ("--steps", steps, 2), ("--draws", draws, 1)):
        if value < least:
            raise Usage(f"{option} must be at least {least}, got {value}")
    if hole is not None and not 0 < hole < 1:
        raise Usage(f"--hole must lie between 0 and 1, got {hole:g}")
    if factor is not None and factor < 2:
        raise Usage(f"--factor must be at least 2, got {factor}")
    where, samples = find_model(run)
    out = samples.parent / "restored" / f"{task}-{method}-seed{seed}.png" if out is None else out
    if out.suffix != ".png":
        raise Usage(f"--out must end in .png, got {out}")
    files = [out, out.with_suffix(".npy")]
    for file in files:
        check_writable(file)
    import torch

    from rheos.cli.images import is_image
    from rheos.models import load, pick_device

    one_thread()
    with found_well():
        model = load(where)
    if not draws_from_noise(model):
        raise Usage("restore paints with models that draw from noise by a flow, and this is none")
    if not model.field.path.noise.gaussian or model.field.path.basis is not None:
        raise Usage("restore needs a model whose path has normal noise and one level for all frequencies: linear, cosine, vp, ve, edm or kinetic")
    if not is_image(model.event, model.transform.bounds) or len(model.event) != 3 or model.event[0] not in (1, 3):
        raise Usage(f"restore works on models of grey or colour images, channels first; this one's samples have shape {model.event}")
    operator = operator_of(task, model.event, mask, 0.5 if hole is None else hole, 2 if factor is None else factor)
    truth = None
    if images is None:
        held_out = Run.open(run).dataset().held_out if (run / "run.toml").is_file() else None
        if held_out is None:
            raise Failure(f"{run} is a model without its data: say which --images to restore")
        truth = held_out.x[torch.linspace(0, len(held_out.x) - 1, min(n, len(held_out.x))).long()]
        given = operator.forward(truth)
    else:
        given = _read(images, tuple(operator.forward(torch.zeros(1, *model.event)).shape[1:]), model.transform.bounds)
    model.to(pick_device(device))
    made = _restored(model, operator, given, method, steps, cond, draws, seed)
    typer.echo(_told(operator, given, made, truth, model, method))
    _write(files, task, operator, given, made, truth, model)
    typer.echo(f"{len(made)} images are in {files[0]} and {files[1]}")


def _read(images: Path, shape: tuple[int, ...], bounds: tuple[float, float]) -> Tensor:
    """The user's measurements (n, *shape) in the data's units."""
    import numpy as np
    import torch

    if images.suffix == ".npy":
        try:
            raw = np.load(images, allow_pickle=False)
            if raw.dtype.kind not in "fiu":
                raise ValueError(f"its entries are {raw.dtype}")
            found = torch.from_numpy(raw.astype(np.float32))
        except (ValueError, TypeError, EOFError) as error:
            raise Failure(f"{images} is not an array of numbers: {error}") from None
        if found.shape[1:] != shape or not len(found):
            raise Usage(f"--images must hold an array (n, {', '.join(map(str, shape))}) for this task, got {tuple(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            raise Usage(f"--images {images} holds numbers that are not finite")
        low, high = float(found.min()), float(found.max())
        if low < bounds[0] - 1e-3 or high > bounds[1] + 1e-3:
            raise Usage(f"--images {images} must lie in the data's units, from {bounds[0]:g} to {bounds[1]:g}, got {low:g} to {high:g}")
        return found
    files = sorted(file for file in images.iterdir() if file.suffix.lower() in PICTURES) if images.is_dir() else [images]
    if not files:
        raise Usage(f"--images {images} holds no pictures ({', '.join(PICTURES)})")
    parts = []
    for file in files:
        picture = read_picture(file, shape[0])
        if tuple(picture.shape) != shape:
            raise Usage(f"{file} must be {shape[2]} pixels wide and {shape[1]} high for this task, got {picture.shape[2]} x {picture.shape[1]}")
        parts.append(picture)
    low, high = bounds
    return low + (torch.stack(parts) + 1) / 2 * (high - low)


def _restored(model: Model, operator: Any, given: Tensor, method: str, steps: int, cond: str | None, draws: int, seed: int) -> Tensor:
    """What fits the measurements, in the data's units."""
    import torch

    from rheos.core import Draws, Progress
    from rheos.guidance import flow_chef, project, steered, travel, travelled
    from rheos.paths import Linear, Times

    field = model.field
    # The transform shifts and scales all numbers alike, and every operator here carries that through.
    y = model.transform.forward(given).to(field.like)
    told = model.conditions.tensor(cond, len(y))
    if told is None and model.classes is not None:
        told = torch.full((len(y),), -1)
    walk = lambda count, loops: travelled(Times.uniform(field.path, count), loops)
    parts = []
    if method == "flowchef" and not isinstance(field.path.schedule, Linear):
        typer.echo(f"note: flowchef is made for the linear path, this model lives on {field.path.schedule}: expect less", err=True)
        warnings.simplefilter("ignore")
    for draw in range(draws):
        shared = {"seed": seed if draw == 0 else Draws(seed).child(draw), "cond": told, "watch": [Progress(method)]}
        if method == "steered":
            steering = steered(field, [(operator, y, 1.0)], scale=0.2, loops=3, begin=0.05, end=0.95)
            parts.append(steering.sample(len(y), steps=steps, **shared))
        elif method == "project":
            parts.append(travel(field, len(y), times=walk(steps, 4), eta=1.0, edit=project(operator, y), **shared))
        else:
            parts.append(flow_chef(field, [(operator, y, 1.0)]).sample(len(y), steps=steps, **shared))
    made = torch.stack(parts).mean(0)
    return model.transform.inverse(made.float().cpu())


def _psnr(x: Tensor, truth: Tensor, bounds: tuple[float, float]) -> float:
    """Peak signal-to-noise ratio in decibels, of the squared error of all pixels: a mean of decibels would be ruled by single exact images."""
    gap = float((x.double() - truth.double()).square().mean())
    return 20 * math.log10(bounds[1] - bounds[0]) - 10 * math.log10(max(gap, 1e-30))


def _plain(operator: Any, given: Tensor, model: Model) -> Tensor:
    """The simplest image that fits: holes of the data's mean, tiles of one colour, grey."""
    from rheos.guidance import Grey

    if isinstance(operator, Grey):      # the smallest image of a luma is green; grey fits as well
        return given.expand(-1, model.event[0], -1, -1)
    return model.transform.inverse(operator.pinv(model.transform.forward(given)))


def _told(operator: Any, given: Tensor, made: Tensor, truth: Tensor | None, model: Model, method: str) -> str:
    miss = float((operator.forward(made) - operator.forward(operator.pinv(given))).double().square().mean().sqrt())
    if truth is None:
        return f"root mean square distance to what was given: {miss:.3g}"
    score = lambda x: _psnr(x, truth, model.transform.bounds)
    return (f"PSNR {score(made):.2f} dB by {method}, {score(_plain(operator, given, model)):.2f} dB by the simplest image that fits; "
            f"root mean square distance to what was given: {miss:.3g}")


def _write(files: list[Path], task: str, operator: Any, given: Tensor, made: Tensor, truth: Tensor | None, model: Model) -> None:
    import io

    import numpy as np
    import torch

    from rheos.cli.drawing import MOST_PICTURED
    from rheos.cli.images import as_pixels, png, sheet
    from rheos.core.files import write_bytes

    shown = min(len(made), MOST_PICTURED // 3, 32)
    rows = [_plain(operator, given, model), made] + ([] if truth is None else [truth])
    tiles = as_pixels(torch.cat([row[:shown] for row in rows]), model.transform.bounds, model.card.get("data", ""))
    write_bytes(files[0], png(sheet(tiles, shown)))
    buffer = io.BytesIO()
    np.save(buffer, made.numpy())
    write_bytes(files[1], buffer.getvalue())
