"""The keys of a server, or of all nodes of a Cluster, whatever they belong to."""
