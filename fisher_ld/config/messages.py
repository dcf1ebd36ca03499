"""Dotted keys of params, and a pydantic error as lines for a person: the key, what was given, what is allowed, the
nearest valid name."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError


def _submodel(annotation: Any) -> type[BaseModel] | None:
    """The class of a section, of one that may be left out, or of the entries of a catalogue."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _is_catalogue(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all values of a config class, in order; NAME stands for the entries of a catalogue."""
    for name, field in model.model_fields.items():
        if inner := _submodel(field.annotation):
            yield from keys(inner, f"{prefix}{name}.{'NAME.' if _is_catalogue(field.annotation) else ''}")
        else:
            yield prefix + name


def flatten(values: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Nested mappings to dotted keys."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        result |= flatten(value, f"{key}{separator}", separator) if isinstance(value, Mapping) else {key: value}
    return result


def nearest(name: str, valid: Sequence[str]) -> str:
    """'did you mean X?' or the valid names."""
    close = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]}?" if close else f"valid are {', '.join(valid)}"


def template_fault(key: str, template: str, allowed: set[str] | None) -> Iterator[str]:
    """A sentence if a str.format template is malformed, or holds no field, or one that is not `allowed` (None: any,
    as only the data can tell)."""
    wanted = " or ".join(f"{{{name}}}" for name in sorted(allowed or {"title"}))
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        template.format(**dict.fromkeys(fields, "text"))
    except (ValueError, LookupError, AttributeError) as error:
        yield (
            f"{key}: {template!r} is not a template ({error}); write {wanted} where the text belongs, and rename a "
            "column whose name is no word"
        )
        return
    if not fields or (allowed is not None and fields - allowed):
        yield f"{key}: {template!r} must hold {wanted} and no other field"


def _unknown(location: tuple[str, ...], root: type[BaseModel]) -> str:
    model, path = root, list(location[:-1])
    while path:
        annotation = model.model_fields[path.pop(0)].annotation
        inner = _submodel(annotation)
        assert inner is not None  # pydantic found the key inside a section
        model = inner
        if _is_catalogue(annotation):
            path.pop(0)  # the entry's name
    elsewhere = [key for key in keys(root) if key.split(".")[-1] == location[-1]]
    if not difflib.get_close_matches(location[-1], list(model.model_fields), n=1) and elsewhere:
        return f"unknown key, did you mean {elsewhere[0]}?"
    return f"unknown key, {nearest(location[-1], list(model.model_fields))}"


def _without_echoes(faults: Sequence[Any]) -> Iterator[Any]:
    """The faults but those that an entry of data_sets has from `data`."""
    common = {(*fault["loc"][1:], fault["msg"]) for fault in faults if fault["loc"][:1] == ("data",)}
    no_data = any(fault["loc"] == ("data",) and fault["type"] in ("missing", "model_type") for fault in faults)
    for fault in faults:
        echo = (*fault["loc"][2:], fault["msg"]) in common or (no_data and fault["type"] == "missing")
        if not (echo and fault["loc"][:1] == ("data_sets",)):
            yield fault


def _value(fault: Any) -> str:
    given = fault["input"]
    message = re.sub("^(Value error, )?(Input|String|Keys) should (be |have )?", "", fault["msg"])
    message = message.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    message, _, hint = message.partition("; ")
    if fault["type"] == "literal_error" and isinstance(given, str):
        close = difflib.get_close_matches(given, re.findall("'([^']*)'", fault["ctx"]["expected"]), n=1)
        hint = f"did you mean {close[0]}?" if close else ""
    return "; ".join(filter(None, [f"expected {message}, got {given!r}", hint]))


def describe(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line for each fault, in the order of the config class."""
    lines = []
    for fault in _without_echoes(error.errors()):
        location = tuple(str(part) for part in fault["loc"] if part != "[key]")  # pydantic's mark of an entry's name
        key, given, kind = ".".join(location), fault["input"], fault["type"]
        if kind == "extra_forbidden":
            lines.append(f"{key}: {_unknown(location, root)}")
        elif kind == "missing":
            lines.append(f"{key}: missing; params.yaml is the only place of defaults")
        elif kind == "string_type" and isinstance(given, int | float):
            quoted = f'"{given}"'.lower() if isinstance(given, bool) else f'"{given}"'
            lines.append(f"{key}: expected a text, got {given!r}; quote it: {quoted}, and in -S '{key}={quoted}'")
        elif kind in ("model_type", "dict_type"):
            lines.append(f"{key}: expected a section with keys of its own, got {given!r}")
        elif kind == "value_error" and isinstance(given, Mapping | BaseModel):
            lines += [f"{key}: {line}" if key else line for line in str(fault.get("ctx", {})["error"]).splitlines()]
        else:
            lines.append(f"{key}: {_value(fault)}")
    return lines
