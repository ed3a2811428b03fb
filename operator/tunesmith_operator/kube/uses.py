"""Which ModelDeployments use a ModelVersion, and as what: an index kept by the cache.

Whatever a deployment begins or ends to use is told, however it was found out: by an event, by our
own write or by a list. Part of the view that the cache is, and never the truth.
"""

from collections.abc import Callable

from tunesmith_api.modelversion import UseRole, VersionUser
from tunesmith_operator.kube.kinds import Object

_USER = "ModelDeployment"
_SERVED = ((UseRole.STABLE, "stable"), (UseRole.CANARY, "canary"), (UseRole.PREVIOUS, "previous"))
_Uses = frozenset[tuple[str, UseRole]]


class Uses:
    """The index. Lives in the event loop; no method waits."""

    def __init__(self, touched: Callable[[str, str], None]) -> None:
        """``touched`` is called with namespace and name of a version whose use has changed."""
        self._touched = touched
        self._of: dict[tuple[str, str], _Uses] = {}
        """Namespace and name of each ModelDeployment -> what it uses."""

    def saw(self, kind: str, body: Object) -> None:
        """Take in an object; only a ModelDeployment uses versions."""
        if kind == _USER:
            self._put(body["metadata"]["namespace"], body["metadata"]["name"], _parse(body))

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """Take in that an object is gone."""
        if kind == _USER:
            self._put(namespace, name, frozenset())

    def users(self, namespace: str, version: str) -> list[VersionUser]:
        """Return who uses a ModelVersion, by name."""
        found = []
        for (where, name), uses in self._of.items():
            if where != namespace:
                continue
            if roles := tuple(role for role in UseRole if (version, role) in uses):
                found.append(VersionUser(name=name, roles=roles))
        return sorted(found, key=lambda user: user.name)

    def _put(self, namespace: str, name: str, uses: _Uses) -> None:
        before = self._of.pop((namespace, name), frozenset())
        if uses:
            self._of[namespace, name] = uses
        for version in sorted({version for version, _ in uses ^ before}):
            self._touched(namespace, version)


def _parse(body: Object) -> _Uses:
    """Extract the names of the ModelVersions that a ModelDeployment uses, and as what."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    found = [((spec.get("source") or {}).get("modelVersion", ""), UseRole.SOURCE)]
    found += [((status.get(key) or {}).get("version", ""), role) for role, key in _SERVED]
    return frozenset((version, role) for version, role in found if version)
