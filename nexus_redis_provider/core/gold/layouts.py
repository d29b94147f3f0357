"""Each layout has its way to find the rows of a version."""

from __future__ import annotations

from nexus_redis_provider.core.gold.bucket_versions import PackedVersion
from nexus_redis_provider.core.gold.manifests import Layout, Manifest
from nexus_redis_provider.core.gold.versions import HashVersion, RowVersion, Version
from nexus_redis_provider.core.keys import GoldKeys

_KINDS: dict[Layout, type[Version]] = {
    Layout.JSON: RowVersion,
    Layout.HASH: HashVersion,
    Layout.PACKED: PackedVersion,
}


def version_of(keys: GoldKeys, manifest: Manifest, *, is_spread: bool = False) -> Version:
    """The version of a manifest, by its layout.

    Args:
        keys: of the dataset.
        manifest: of the version.
        is_spread: whether its keys are on several nodes of a Cluster, which answer in no order.
    """
    return _KINDS[manifest.layout](keys, manifest, is_spread=is_spread)
