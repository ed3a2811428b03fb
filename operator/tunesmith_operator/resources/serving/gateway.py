"""The router GatewayAPI: an HTTPRoute with weights, for a Gateway that is there.

Weights, RequestMirror, RequestHeaderModifier and timeouts as in gateway.networking.k8s.io/v1;
``percent`` of a mirror is there since Gateway API 1.3 (GEP-3171).
"""

from tunesmith_api.engine import GatewayOptions, ParentRef
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.router import RouterSplit
from tunesmith_operator.resources.metadata import Manifest, deployment_labels, owned_metadata
from tunesmith_operator.resources.serving.workload import SERVICE_PORT

# No client may say that it is the operator, or a copy.
_OURS: Manifest = {
    "type": "RequestHeaderModifier",
    "requestHeaderModifier": {"remove": ["x-tunesmith-analysis", "x-tunesmith-mirror"]},
}
# The sidecar bounds a request and says so; it does not cut a stream that has begun. Envoy would cut
# any answer after 15 s.
_NO_TIMEOUT: Manifest = {"request": "0s"}


def build_route(
    deployment: ModelDeployment, options: GatewayOptions, split: RouterSplit
) -> Manifest:
    """Give the HTTPRoute that sends requests to the revisions' Services as ``split`` says."""
    parents = [_parent(parent) for parent in options.parent_refs]
    return _route(deployment, parents, [options.hostname] if options.hostname else [], split)


def redirect_route(deployment: ModelDeployment, found: Manifest, split: RouterSplit) -> Manifest:
    """Give a route that the spec no longer has, with another split: it serves for a while yet."""
    spec = found["spec"]
    return _route(deployment, spec.get("parentRefs", []), spec.get("hostnames", []), split)


def _route(
    deployment: ModelDeployment, parents: list[Manifest], hostnames: list[str], split: RouterSplit
) -> Manifest:
    # Lists are said where they are empty, too: server-side apply leaves alone what it is not told
    # of.
    spec: Manifest = {"parentRefs": parents, "hostnames": hostnames, "rules": [_rule(split)]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": owned_metadata(
            deployment, deployment.metadata.name, deployment_labels(deployment)
        ),
        "spec": spec,
    }


def _rule(split: RouterSplit) -> Manifest:
    filters, backends = [_OURS], [_backend(split.main) | {"weight": 100 - split.weight}]
    if split.canary is not None:
        # A canary with weight 0 stays in the route: the gateway knows its endpoints already when
        # it gets its first share.
        backends.append(_backend(split.canary) | {"weight": split.weight})
        if split.mirror_percent:
            mirror = {"backendRef": _backend(split.canary), "percent": split.mirror_percent}
            filters.append({"type": "RequestMirror", "requestMirror": mirror})
    return {"filters": filters, "timeouts": _NO_TIMEOUT, "backendRefs": backends}


def _backend(revision: str) -> Manifest:
    return {"name": revision, "port": SERVICE_PORT}


def _parent(parent: ParentRef) -> Manifest:
    said = parent.model_dump(by_alias=True)
    return {name: value for name, value in said.items() if value}
