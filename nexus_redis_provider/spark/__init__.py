"""Gold publishing from Spark: `publish(df, ...)` and `df.write.format("nexus_redis")`."""

from nexus_redis_provider.spark.datasource import NexusRedisDataSource
from nexus_redis_provider.spark.publishing import publish

__all__ = ["NexusRedisDataSource", "publish"]
