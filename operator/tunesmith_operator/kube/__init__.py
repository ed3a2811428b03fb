"""The edge to Kubernetes: calls, events, cache, Lease. The only importer of its client."""
