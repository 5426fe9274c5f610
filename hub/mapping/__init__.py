"""Carries documents between partners and canon: a closed YAML language, compiled to closures, checked for every leaf."""

from hub.mapping.faults import MappingFault
from hub.mapping.mappings import Mapping, Mappings

__all__ = ["Mapping", "MappingFault", "Mappings"]
