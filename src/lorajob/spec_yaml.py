"""The YAML of spec files, batch files and `--set`.

ruamel.yaml was compared on 27 values. It reads YAML 1.2, so it needs none of the changes below. But
it gives other values to files that work today: 017 is 17 there and 15 here, 12:30:45 is text there.
It would also be one more package, while transformers brings PyYAML.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from lorajob.errors import UsageError


class _Loader(yaml.SafeLoader):
    """Loads YAML with two changes to PyYAML.

    Only true and false are booleans, as in YAML 1.2, so that the language code `no` stays text.
    Duplicate keys are an error.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"{key.value!r} is there twice, again in line {line}")
                seen.add(key.value)
        return node


_BOOLEAN = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile("^(?:true|True|false|False)$"), list("tTfF"))


def read_yaml(text: str) -> Any:
    """Parse the text of a spec file or a setting. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def parse_value(text: str, line: str) -> object:
    """The value of `--set LINE`, as YAML. Raises UsageError."""
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        raise UsageError(f"--set: {line!r} has a value that is not YAML") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge(base: Mapping[str, object], extra: Mapping[str, object]) -> dict[str, object]:
    """`base` with the values of `extra` over it. Mappings are merged, other values replaced."""
    merged = dict(base)
    for key, value in extra.items():
        inner = merged.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            merged[key] = merge(inner, value)
        else:
            merged[key] = value
    return merged


def nested(keys: list[str], value: object) -> dict[str, object]:
    """`value` below `keys`: {"a": {"b": value}} for ["a", "b"]."""
    first, *rest = keys
    return {first: nested(rest, value) if rest else value}
