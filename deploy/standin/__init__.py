"""An engine that misbehaves as it is told, and ModelDeployments of it.

For what must be known exactly and soon: the e2e tests of roll-outs and the benchmark of
roll-backs. Only the engine is a stand-in; fetcher, sidecar, router and operator are the real ones.
"""
