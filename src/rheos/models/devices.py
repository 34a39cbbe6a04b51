"""Devices by name."""
from __future__ import annotations

import torch

__all__ = ["pick_device"]


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name: auto (the best there is), cpu, cuda, cuda:1, mps. ValueError if it does not exist here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()        # "meta" can be asked for, but holds no numbers
    except NotImplementedError:
        raise ValueError(f"device {name!r} cannot be used here: this torch was built without it") from None
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device
