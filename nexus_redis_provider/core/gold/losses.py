"""Rows of a version that are missing: they have expired, or they were lost."""

from __future__ import annotations

from nexus_redis_provider.core.gold.manifests import Manifest
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import Call


def have_expired(keys: GoldKeys, manifest: Manifest) -> Call[bool]:
    """Whether rows that were missing a moment ago may have expired; else they were removed.

    One round trip. Once the last row has expired, so has the version: then the answer is no.
    """

    def decode(now_ms: int) -> bool:
        # Zero, where it is not kept any more, is before anything expires.
        return manifest.loses_rows(now_ms)

    return Call(
        "kept_version",
        (keys.versions, keys.manifest(manifest.version)),
        (manifest.version,),
        decode,
    )
