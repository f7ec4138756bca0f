"""What prose and docstrings name is there: files, folders, modules."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

PACKAGES = (
    "chain|consensus|genesis|inference|market|network|p2pchain|primitives|shards|wallet"
)

FILE = re.compile(r"(?<![\w./*<-])((?:\.\.?/)*(?:[\w-]+/)*[\w-]+\.py)\b")
FOLDER = re.compile(rf"(?<![\w./-])((?:{PACKAGES})(?:/\w+)+)(?![\w.*<{{-])")
MODULE = re.compile(rf"(?<![\w./-])((?:{PACKAGES})(?:\.\w+)+)(?![\w(/])")

PAST = {"CHANGELOG.md", "docs/log.md"}
"""They tell what was, under the names that it had."""

OTHERS = {"genesis.json", "consensus/block", "consensus/final", "consensus/status"}
"""Names of a file in a node's home, and of requests between nodes."""


@cache
def list_files() -> frozenset[str]:
    """Return the paths of the repository's files, with those that are new."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    paths = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    return frozenset(path for path in paths if (ROOT / path).exists())


@cache
def list_names() -> frozenset[str]:
    """Return the names of all files, without their folders."""
    return frozenset(path.rpartition("/")[2] for path in list_files())


@cache
def read(path: str) -> str:
    return (ROOT / path).read_text()


@cache
def list_nodes(path: str) -> tuple[ast.AST, ...]:
    """Return the strings in a Python file, and the expressions that stand alone."""
    nodes = ast.walk(ast.parse(read(path)))
    return tuple(node for node in nodes if isinstance(node, ast.Expr | ast.Constant))


def test_prose_names_files_and_modules_that_exist() -> None:
    wrong = []
    for path in sorted(list_files() - PAST):
        if path.endswith(".md"):
            text = read(path)
            wrong += [f"{path}: {name}" for name in find_missing(text, path)]
            wrong += [f"{path}: {name}" for name in find_missing_modules(text)]
    assert wrong == []


def test_docstrings_name_files_and_modules_that_exist() -> None:
    wrong = []
    for path in sorted(list_files()):
        if path.endswith(".py"):
            for text in iterate_docstrings(path):
                wrong += [f"{path}: {name}" for name in find_missing(text, path)]
                wrong += [f"{path}: {name}" for name in find_missing_modules(text)]
    assert wrong == []


def test_modules_named_in_code_exist() -> None:
    """What is started with `-m`, and what tests replace in a module."""
    wrong = []
    for path in sorted(list_files()):
        if path.endswith(".py"):
            for node in list_nodes(path):
                match node:
                    case ast.Constant(value=str(text)) if MODULE.fullmatch(text):
                        # Half a name is put together by an f-string.
                        if (
                            text not in OTHERS
                            and text[-1] != "_"
                            and not is_known(text)
                        ):
                            wrong.append(f"{path}: {text}")
    assert wrong == []


def iterate_docstrings(path: str) -> Iterator[str]:
    """Yield the strings of a file that stand alone: docstrings, those of fields too."""
    for node in list_nodes(path):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def find_missing(text: str, path: str) -> Iterator[str]:
    """Yield the files and folders that `text`, in the file at `path`, names in vain."""
    here = (ROOT / path).parent
    for name in FILE.findall(text):
        if "/" in name:
            if not (ROOT / name).exists() and not (here / name).exists():
                yield name
        elif path.endswith(".md"):
            if name not in list_names():
                yield name
        elif not (here / name).exists():
            yield name
    for name in set(FOLDER.findall(text)) - OTHERS:
        if not any((ROOT / f"{name}{end}").exists() for end in ("", ".py")):
            yield name


def find_missing_modules(text: str) -> Iterator[str]:
    """Yield what `text` names with dots and no module has."""
    for name in set(MODULE.findall(text)) - OTHERS:
        if not is_known(name):
            yield name


def is_known(name: str) -> bool:
    """Return whether a module of that name exists, or a name in a module."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = "/".join(parts[:length])
        if f"{place}.py" in list_files():
            rest = parts[length:]
            return not rest or bool(re.search(rf"\b{rest[0]}\b", read(f"{place}.py")))
        if f"{place}/__init__.py" in list_files():
            return length == len(parts)
    return False
