"""`-S KEY=VALUE`, as `dvc exp run` takes it, set in the text of params.yaml: what is not set stays as it stands, with
comments. DVC would write the file anew, a line for every entry of a list, and where such a list is set once more a
comment behind it can break the file."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fisher_ld.config.messages import nearest
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, read_yaml

_NEW = object()


def set_params(path: Path, overrides: Sequence[str]) -> None:
    """Raises UserError for what the grammar of `-S` does not take, or takes for something else."""
    for key, _, value in (override.partition("=") for override in overrides):
        if "${" in value:
            raise UserError(f"-S: {key} holds ${{, which stands for another value there: write it into {path}")
        if value != value.strip():
            raise UserError(f"""-S: a blank at an end of a value is kept in quotes alone: -S '{key}="{value}"'""")
    before, text = read_yaml(path), path.read_text(encoding="utf-8")
    for key in (override.partition("=")[0] for override in overrides):
        _check_key(path, before, key)
    after = _by_dvc(path, before, overrides)
    if (text := _with_all(text, before, after)) is None:
        raise UserError(
            f"{path}: -S cannot set this beside anchors (&), aliases (*), merges (<<) or texts in lines of their own "
            "(| or >); change it in the file"
        )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_key(path: Path, section: Any, key: str) -> None:
    """Raises UserError where a dotted key, which `-S` is to change or (~) take away, is not there."""
    if key.startswith("+"):
        return
    above, *names = "", *key.removeprefix("~").split(".")
    for name in names:
        if not isinstance(section, Mapping):
            raise UserError(f"{path}: {above} is no section, so -S cannot set {key}")
        if name not in section:
            hint = nearest(name, list(section))
            hint += "" if hint.endswith("?") else "."
            raise UserError(
                f"{path}: {above or 'the file'} has no key {name!r}; {hint} What is to be new there takes a plus: "
                f"-S '+{key}=...'"
            )
        section, above = section[name], f"{above}.{name}".removeprefix(".")


def _by_dvc(path: Path, before: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        plain.write_text(_flow(before), encoding="utf-8")
        try:
            apply_overrides(plain, list(overrides))
        except Exception as error:  # of DVC, OmegaConf or the writer of YAML
            reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
            raise UserError(
                f"""{path}: {reason}. A text with blanks, commas or braces stands in quotes: -S 'KEY="TEXT"'"""
            ) from error
        return read_yaml(plain)


def _with_all(text: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """None where the text would hold something else than `after`."""
    from ruamel.yaml import YAML, YAMLError

    try:
        for keys, value in _changed(before, after):
            text = _with(text, keys, value)
        return text if YAML(typ="safe", pure=True).load(text) == after else None
    except YAMLError:
        return None


def _changed(before: Any, after: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The values that differ or are new, with their keys; of a section that lost some the whole."""
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() <= after.keys():
        for key, value in after.items():
            yield from _changed(before.get(key, _NEW), value, (*keys, key))
    elif repr(before) != repr(after):  # true is not 1
        yield keys, after


def _with(text: str, keys: Sequence[Any], value: Any) -> str:
    from ruamel.yaml import YAML

    reader = YAML(typ="safe", pure=True)
    node, colon = cast(Any, reader.compose(io.StringIO(text))), 0
    if not keys:
        return _flow(value) + "\n"
    for key in keys:
        named = [pair for pair in node.value if reader.constructor.construct_object(pair[0]) == key]
        if not named:
            return _with_entry(text, node, f"{_flow(key)}: {_flow(value)}")
        name, node = named[0]
        colon = text.index(":", name.end_mark.index) + 1
    if node.start_mark.index == node.end_mark.index:  # nothing stands there
        return f"{text[:colon]} {_flow(value)}{text[colon:]}"
    between = text[colon : node.start_mark.index].rstrip(" ").removesuffix("\n")  # comments before a block
    return f"{text[:colon]} {_flow(value)}{between}{text[_end(node) :]}"


def _with_entry(text: str, section: Any, entry: str) -> str:
    begin = section.start_mark
    if section.flow_style:
        return f"{text[: begin.index + 1]}{entry}{', ' if section.value else ''}{text[begin.index + 1 :]}"
    line = f"{text}\n".index("\n", _end(section))
    return f"{text[:line]}\n{' ' * begin.column}{entry}{text[line:]}"


def _end(node: Any) -> int:
    while isinstance(node.value, list) and node.value and not node.flow_style:  # its own mark is behind comments
        node = node.value[-1][1] if isinstance(node.value[-1], tuple) else node.value[-1]
    return node.end_mark.index


def _flow(value: Any) -> str:
    """In one line."""
    from ruamel.yaml import YAML

    writer, stream = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style, writer.width = True, 1_000_000
    writer.representer.ignore_aliases = lambda data: True  # DVC loses what is set under one
    writer.dump({"x": value}, stream)
    return stream.getvalue().strip().removeprefix("{x: ").removesuffix("}")
