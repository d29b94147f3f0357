"""Two publishes of one dataset at once: whichever ends first, the one begun later is seen."""

from __future__ import annotations

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import SupersededError
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import dealt, spec, write, write_packed
from tests.gold_faults import SHAPES, Reader, Shape, assert_settled, publish

pytestmark = pytest.mark.usefixtures("rows_may_stay")


def staged(publication: Publication, rows: dict[str, int]) -> list[Report]:
    if publication.spec.layout is not Layout.PACKED:
        return [write(publication, rows)]
    parts = dealt(rows, publication.shares)
    return [write_packed(publication, part, share) for share, part in enumerate(parts)]


@pytest.mark.parametrize("newer_is_first", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_one_begun_later_is_seen(
    endpoint: Endpoint, client: redis.Redis, namespace: str, shape: Shape, newer_is_first: bool
) -> None:
    keys, error = GoldKeys("sales", namespace), None
    publish(endpoint, keys, shape, 1)
    plan = spec(namespace, layout=shape.layout, mode=shape.mode)
    with Reader(endpoint, keys, shape) as reader:
        reader.reads_on()
        older, newer = Publication.begin(endpoint, plan), Publication.begin(endpoint, plan)
        of_older, of_newer = staged(older, shape.rows(2)), staged(newer, shape.rows(3))
        if newer_is_first:
            newer.commit(of_newer)
            with pytest.raises(SupersededError) as caught:
                older.commit(of_older)
            older.abort()
            error = caught.value
        else:
            older.commit(of_older)
            reader.reads_on()
            newer.commit(of_newer)
        says = f"version '{newer.version}', begun after '{older.version}', is already published"
        assert_settled(client, reader, live=3, error=error, says=says)
