"""Models to and from hubs: a repository is the model's folder (one safetensors file, model.json) and a README.md with a card in front.

The card's head is YAML as hubs read it: licence, library_name, tags, and the figures of the report as a model-index.
"""
from __future__ import annotations

import re
import shutil
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from rheos.core.extras import require
from rheos.core.files import write_bytes
from rheos.models import Model, load

__all__ = ["Hub", "LocalHub", "describe", "pull", "push", "write_card"]

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
FILES = ("README.md", "model.json", "model-*.safetensors")
USE = """{imports}

model = {door}
x = model.sample(16{cond}, seed=0)          # a tensor (16, {event}){decode}
"""


@runtime_checkable
class Hub(Protocol):
    """What is asked of a hub: the two calls of huggingface_hub's API that are used here."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any: ...

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str], local_dir: str) -> str: ...


class LocalHub:
    """A folder that serves as a hub: `root/user/name` holds the files of one repository. For shared drives, and for trying things out."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"root must be a folder, got the file {self.root}")

    def create_repo(self, repo_id: str, **_: Any) -> None:
        (self.root / _checked(repo_id)).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str = "") -> str:
        """Copy the files over."""
        place, source = self.root / _checked(repo_id), Path(folder_path)
        old = {file.name for file in place.glob("model-*.safetensors")}
        files = _in_order(source)
        for file in files:
            write_bytes(place / file.name, file.read_bytes())
        for name in old - {file.name for file in files}:
            (place / name).unlink(missing_ok=True)
        return str(place)

    def snapshot_download(self, repo_id: str, *, revision: str | None = None, allow_patterns: Sequence[str] = FILES, local_dir: str) -> str:
        place = self.root / _checked(repo_id)
        if revision is not None:
            raise ValueError(f"revision must be left out: a folder keeps the last version only, got {revision!r}")
        if not (place / "model.json").is_file():
            raise FileNotFoundError(f"{self.root} holds no model called {repo_id}: {place / 'model.json'} does not exist")
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for file in place.glob(pattern):
                shutil.copyfile(file, Path(local_dir) / file.name)
        return local_dir


def push(model: Model | str | Path, to: str, *, hub: Hub | None = None, licence: str | None = None, private: bool = False,
         message: str = "Model saved by rheos") -> str:
    """Put a model, or the folder of one or of its run, on a hub as the repository `to` ("user/name"), with its card. Returns what the hub says of it.

    hub: a `LocalHub`, or anything that answers like huggingface_hub's HfApi; by default that one, with the token of this machine's login.
    licence: of the model, as hubs write it ("mit", "cc0-1.0"); that of the data is told in the card. private: not for everybody.
    ValueError for a name that is none; ImportError that says what to install.
    """
    to = _checked(to)
    if not isinstance(model, Model):
        model = load(Path(model) / "model" if (Path(model) / "model" / "model.json").is_file() else model)
    hub = _hub(hub)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        write_card(model, folder, name=to, licence=licence)
        if hasattr(hub, "create_repo"):
            hub.create_repo(to, private=private, exist_ok=True)
        return str(hub.upload_folder(repo_id=to, folder_path=folder, commit_message=message))


def pull(name: str, *, folder: str | Path | None = None, revision: str | None = None, hub: Hub | None = None, net: nn.Module | None = None,
         device: str = "cpu") -> Model:
    """The model `name` ("user/name") of a hub.

    folder: where its files are kept; by default they are not. revision, hub: which version, from where, see `push`. net, device: as in
    `rheos.load`, which builds rheos' own classes only and never unpickles. ValueError for a name or a model that cannot be read.
    """
    hub, name = _hub(hub), _checked(name)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES), local_dir=temporary))
        try:
            model = load(place, net=net, device=device)     # before anything is kept
        except ValueError as error:
            raise ValueError(str(error).replace(f"{place}/", f"{name}: ")) from error       # of the temporary folder nothing is left to look at
        if folder is not None:
            for file in _in_order(place):
                write_bytes(Path(folder) / file.name, file.read_bytes())
        return model


def write_card(model: Model, folder: str | Path, *, name: str | None = None, licence: str | None = None) -> Path:
    """Write README.md beside a saved model."""
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ValueError(f"licence must be a short name in small letters such as mit or cc0-1.0, got {licence!r}")
    return write_bytes(Path(folder) / "README.md", describe(model, name=name, licence=licence).encode())


def describe(model: Model, *, name: str | None = None, licence: str | None = None) -> str:
    """The card of a model as a hub shows it: Markdown with YAML in front."""
    card = model.card
    told = card.get("figures")
    numbers = told.items() if isinstance(told, dict) else ()
    figures = [(str(key), value) for key, value in numbers if isinstance(value, int | float) and not isinstance(value, bool)]
    head = ["---", *([f"license: {licence}"] if licence else []), "library_name: rheos", "tags:", "- rheos", "- flow-matching", "- generative"]
    if figures:
        head += ["model-index:", f"- name: {_yaml(str(name or card.get('data') or 'flow').split('/')[-1])}", "  results:", "  - task:", "      type: other",
                 "    dataset:", f"      name: {_yaml(card.get('data', ''))}", f"      type: {_yaml(card.get('data', ''))}", "    metrics:"]
        for key, value in figures:
            kind = re.sub(r"[^a-z0-9]+", "_", _plain(key).lower()).strip("_")
            head += [f"    - type: {_yaml(kind)}", f"      name: {_yaml(key)}", f"      value: {value:.6g}"]
    asked = {"label": "cond=3" if model.labels is None else f"cond={model.labels[0]!r}", "caption": 'cond="a caption"'}.get(model.condition or "")
    door = f'pull("{name}")' if name else 'rheos.load("this/folder")'
    imports = "from rheos.interop import pull" if name else "import rheos"
    use = USE.format(imports=imports, door=door, cond=f", {asked}" if asked else "", event=", ".join(map(str, model.event)),
                     decode="" if model.encoding is None else "\nprint(model.encoding.header() + model.encoding.text(x))")
    facts = [("what a sample is", card.get("meaning")), ("shape", " x ".join(map(str, model.event))), ("trained on", card.get("data")),
             ("rows", card.get("rows")), ("source of the data", card.get("source")), ("licence of the data", card.get("licence") or "not known"),
             ("can be asked for", _asked_for(model)), ("parameters", card.get("parameters")), ("training steps", card.get("trained_steps")),
             ("batch", card.get("batch")), ("learning rate", card.get("rate")), ("seed", card.get("seed")),
             ("path", str(model.field.path.schedule)), ("predicts", ", ".join(model.field.predicts)), ("command", card.get("command"))]
    table = "\n".join(f"| {key} | {_cell(value)} |" for key, value in facts if value not in (None, ""))
    measured = "\n".join(f"| {_cell(key)} | {value:.4g} |" for key, value in figures)
    parts = ["\n".join([*head, "---"]), f"# {name or card.get('data') or 'A generative flow'}",
             "A generative flow, learned with rheos.",
             f"```python\n{use}```", f"| | |\n| --- | --- |\n{table}"]
    if measured:
        parts.append(f"## Measured\n\nOn rows that no training saw, by `rheos report`.\n\n| figure | value |\n| --- | --- |\n{measured}")
    return "\n\n".join(parts) + "\n"


def _in_order(folder: Path) -> list[Path]:
    """The files of a repository, model.json last: whoever reads while they are written finds the old model or the new one."""
    return sorted((file for pattern in FILES for file in folder.glob(pattern)), key=lambda file: file.name == "model.json")


def _asked_for(model: Model) -> str:
    if model.condition == "caption":
        return "captions"
    if model.classes is None:
        return "nothing"
    return f"{model.classes} classes" + ("" if model.labels is None else ": " + ", ".join(model.labels))


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """Letters without their accents."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _yaml(text: str) -> str:
    """A text as YAML holds any text safely: in double quotes, as JSON writes it."""
    import json

    return json.dumps(str(text), ensure_ascii=False)


def _checked(name: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(f"{NAME}/{NAME}", name) or ".." in name:
        raise ValueError(f"a model on a hub is named user/name, of letters, digits, '.', '_' and '-', got {name!r}")
    return name


def _hub(hub: Hub | None) -> Hub:
    return require("huggingface_hub", extra="interop").HfApi() if hub is None else hub
