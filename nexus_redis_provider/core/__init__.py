"""What Redis does for the platform, with no framework: standard library and redis-py only."""
