"""Configurations: dataclasses, YAML and flags. `schema` < `yaml` < `flags`; none imports torch."""

from rationalize.config.schema import from_dict, nearest, nested, to_dict
from rationalize.config.yaml import dump_yaml, load_yaml

__all__ = ["dump_yaml", "from_dict", "load_yaml", "nearest", "nested", "to_dict"]
