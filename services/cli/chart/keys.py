"""What values of the chart are made of: types of single keys, and the struct that all of them share."""

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

Object: TypeAlias = dict[str, Any]
"""A piece of a Kubernetes object, passed through as it is."""
Texts: TypeAlias = dict[str, str]
Name = Annotated[str, Meta(pattern="^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Quantity = Annotated[str, Meta(pattern="^[0-9]+(\\.[0-9]+)?([EPTGM]i?|[Kk]i?|m)?$")]


class ChartSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """Keys of the chart's own."""


class SecretKey(ChartSection, frozen=True, kw_only=True):
    """A key of a Secret that exists."""

    name: str = ""
    """Name of the Secret; empty uses none."""
    key: str = ""
    """Key in it."""


class Storage(ChartSection, frozen=True, kw_only=True):
    """A volume to be claimed."""

    size: Quantity = "10Gi"
    """How large."""
    class_name: str = ""
    """Storage class; empty takes the cluster's default."""
