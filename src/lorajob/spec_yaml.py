"""The YAML of spec files, batch files and `--set`."""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML whose only booleans are true and false, as in 1.2, so that `no` is Norwegian, and of
    whose equal keys not all but the last are passed over in silence.
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
    """The value of a spec file's or a setting's text. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
