"""Gold datasets: versions of rows in Redis, published atomically behind one live pointer."""
