"""Pages that are made when the site is built: a reference page for each module, and copies of two files of the top."""

import functools
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = "attnseg_jax"
# From what users call to what it is made of; "" are the files beside the rooms.
ROOMS = (
    *("", "models", "ops", "weights", "data", "train"),
    *("inference", "evaluation", "plots", "study", "planning", "cli"),
)


def _modules(room: str) -> list[Path]:
    folder = ROOT / PACKAGE / room
    paths = sorted(folder.rglob("*.py")) if room else [path for path in folder.glob("*.py") if path.stem != "__init__"]
    # A room that only gathers what is in it may have no docstring.
    return [path for path in paths if path.read_text().startswith('"""')]


@functools.cache
def reference() -> dict[str, list[tuple[str, str, str]]]:
    """Room -> (module, its page, the first line of its docstring) of each of its modules."""
    rooms = {}
    for room in ROOMS:
        rooms[room or PACKAGE] = lines = []
        for path in _modules(room):
            names = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
            page = "/".join(names).replace("__init__", "index")
            first = path.read_text().split('"""')[1].partition("\n")[0]
            lines.append((".".join(name for name in names if name != "__init__"), f"{page}.md", first))
    return rooms


def on_config(config: Any) -> Any:
    """Puts the pages of the reference into the navigation."""
    rooms = [
        {room: [{name.removeprefix(f"{room}."): f"reference/{page}"} for name, page, _ in modules]}
        for room, modules in reference().items()
    ]
    next(entry for entry in config.nav if "Reference" in entry)["Reference"] = ["reference/index.md", *rooms]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    index = "# Reference\n\nMade from the docstrings: a page for each module.\n"
    pages = {}
    for room, modules in reference().items():
        index += f"\n## {room}\n\n"
        for name, page, first in modules:
            index += f"- [`{name}`]({page}): {first}\n"
            pages[f"reference/{page}"] = f"# {name}\n\n::: {PACKAGE}.{name}\n"
    pages["reference/index.md"] = index
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        pages[name.lower()] = (ROOT / name).read_text().replace("](docs/", "](")
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files
