"""How each kind of happening of a scenario takes place in a world."""

from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.api_server import Refused
from tests.simulation.runners import Runner
from tests.simulation.scenario import MODEL, TEAM, Happening, PoolPlan
from tests.simulation.world import KIND_OF, SYSTEM, World, endpoints
from videojob.api.replica import COMPONENT_LABEL, DRAIN_ANNOTATION, REPLICA_COMPONENT
from videojob.kube.client import GPU_POOLS, LEASES, PODS, VIDEO_JOBS, VIDEO_QUEUES

Json = dict[str, Any]
_BROKEN: dict[str, tuple[str, Any]] = {
    "videojobs": ("priority", "high"),
    "videoqueues": ("stopPolicy", "Later"),
    "videomodels": ("estimate", {"chunkSeconds": "long"}),
    "gpupools": ("models", "all"),
}
"""By kind: a field that a newer version has in another form."""
GARBAGE = {"x": "{", "y": '{"uid": 3, "more": 1}'}
"""Entries of the orphans' ConfigMap that nobody can read."""


class Happenings:
    """Lets things happen, and takes back what passes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._original_fields: dict[tuple[str, str, str], Any] = {}
        """What was there before an object became unreadable, by plural, namespace and name."""

    def happen(self, one: Happening) -> None:
        """It takes place now."""
        world, now = self._world, self._world.clock.monotonic()
        world.ledger.note(f"=== {one.what} {one.whom} {one.seconds:.1f} {one.detail}")
        end = min(now + one.seconds, world.scenario.calm_at)
        method: Callable[[Happening, float], None] = getattr(self, f"_{one.what.replace(' ', '_').lower()}")
        try:
            method(one, end)
        except Refused as refused:
            world.ledger.note(f"=== not so: {refused}")

    def settle(self) -> None:
        """Users undo what they have held, changed or broken, except for jobs that cannot be read."""
        world = self._world
        self.restore(("videoqueues", "videomodels", "gpupools"))
        world.patch(VIDEO_QUEUES, "default", {"spec": {"stopPolicy": "None"}}, TEAM)
        for pool in [pool for pool in world.scenario.pools if pool.managed is None]:
            world.patch(GPU_POOLS, pool.name, {"spec": {"endpoints": endpoints(pool.endpoints)}})
        for job in world.server.objects("videojobs"):
            if (job.get("spec") or {}).get("suspend") is True:
                resumed: Callable[[Json], Json] = lambda body: {**body, "spec": {**body["spec"], "suspend": False}}  # noqa: E731
                world.server.force("videojobs", TEAM, job["metadata"]["name"], resumed, "user")

    def restore(self, kinds: Sequence[str] = tuple(_BROKEN)) -> None:
        """Restore the fields that made objects of these kinds unreadable."""
        restored = {key: value for key, value in self._original_fields.items() if key[0] in kinds}
        for (plural, namespace, name), value in restored.items():
            del self._original_fields[plural, namespace, name]
            field = _BROKEN[plural][0]
            spec_of: Callable[[Json], Json] = lambda body, field=field, value=value: {  # type: ignore[misc]  # noqa: E731
                **body,
                "spec": {key: other for key, other in {**body["spec"], field: value}.items() if other is not None},
            }
            self._world.server.force(plural, namespace, name, spec_of, "user")

    def _after(self, end: float, action: Callable[[], None]) -> None:
        def act() -> None:
            try:
                action()
            except Refused as refused:
                self._world.ledger.note(f"=== not so: {refused}")

        self._world.loop.call_at(end, act)

    def _runner(self, one: Happening) -> Runner:
        return self._world.runners[self._world.replica(one.whom)]

    def _plan(self, one: Happening) -> PoolPlan:
        return next(pool for pool in self._world.scenario.pools if pool.name == one.whom.split(".")[0])

    def _operator(self, one: Happening) -> str:
        return self._world.leader() if one.whom == "leader" else one.whom

    def _api_away(self, one: Happening, end: float) -> None:
        network = self._world.network
        network.away_until, network.frozen = max(network.away_until, end), one.detail == "frozen"
        self._world.outages.append((self._world.clock.monotonic(), end))

    def _kill_runner(self, one: Happening, end: float) -> None:
        self._world.kill(self._world.replica(one.whom), self._runner(one).process, one.seconds)

    def _pause_runner(self, one: Happening, end: float) -> None:
        process = self._runner(one).process
        process.pause()
        self._after(end, process.resume)

    def _cut_runner(self, one: Happening, end: float) -> None:
        self._world.network.cut_until[self._runner(one).process.name] = end

    def _replace_runner(self, one: Happening, end: float) -> None:
        """The machine is cut off, and another one takes its place while the first goes on."""
        if self._plan(one).managed is not None:
            raise Refused(404, "a pod never has two runners")
        self._cut_runner(one, end)
        self._world.start_runner(*one.whom.split("."))

    def _kill_operator(self, one: Happening, end: float) -> None:
        name = self._operator(one)
        self._world.kill(name, self._world.operators[name], one.seconds)

    def _pause_operator(self, one: Happening, end: float) -> None:
        process = self._world.operators[self._operator(one)]
        process.pause()
        self._after(end, process.resume)

    def _cut_operator(self, one: Happening, end: float) -> None:
        self._world.network.cut_until[self._operator(one)] = end

    def _blind_operator(self, one: Happening, end: float) -> None:
        self._world.network.blind_until[self._operator(one)] = end

    def _compact(self, one: Happening, end: float) -> None:
        self._world.server.compact()

    def _store_down(self, one: Happening, end: float) -> None:
        self._world.stores.open(one.whom).down_until = end

    def _lock_files(self, one: Happening, end: float) -> None:
        job = self._world.server.collection("videojobs").objects.get((TEAM, one.whom))
        if job is not None:
            for bucket in self._world.stores.buckets.values():
                bucket.locked[f"{TEAM}/{job['metadata']['uid']}"] = end

    def _unreadable_job(self, one: Happening, end: float) -> None:
        self._break("videojobs", TEAM, one.whom)

    def _unreadable(self, one: Happening, end: float) -> None:
        names = {"videoqueues": (TEAM, "default"), "videomodels": ("", MODEL)}
        self._break(one.whom, *names.get(one.whom, ("", self._world.scenario.pools[0].name)))
        self._after(end, lambda: self.restore((one.whom,)))

    def _unreadable_report(self, one: Happening, end: float) -> None:
        runner = self._runner(one)
        runner.unreadable = True
        self._after(end, lambda: setattr(runner, "unreadable", False))

    def _break(self, plural: str, namespace: str, name: str) -> None:
        field, value = _BROKEN[plural]
        found = self._world.server.collection(plural).objects.get((namespace, name))
        if found is None or (plural, namespace, name) in self._original_fields:
            return
        self._original_fields[plural, namespace, name] = found["spec"].get(field)
        broken: Callable[[Json], Json] = lambda body: {**body, "spec": {**body["spec"], field: value}}  # noqa: E731
        self._world.server.force(plural, namespace, name, broken, "user")

    def _garbage(self, one: Happening, end: float) -> None:
        """An object that nobody can read, for good."""
        kind, server = KIND_OF[one.whom], self._world.server
        body: Json
        if one.whom == "configmaps":
            name, namespace = "videojob-orphans", SYSTEM
            body = {"data": dict(GARBAGE)}
        else:
            name, namespace = "garbage", {"leases": SYSTEM, "videomodels": "", "gpupools": ""}.get(one.whom, TEAM)
            labels = {COMPONENT_LABEL: REPLICA_COMPONENT}
            body = {"metadata": {"labels": labels}, "spec": {"leaseDurationSeconds": "x"}}
        found = server.collection(one.whom).objects.get((namespace, name))
        if found is not None:
            data: Json = {**found.get("data", {}), **GARBAGE}
            kept = {"metadata": found["metadata"]} | ({"data": data} if one.whom == "configmaps" else {})
            server.force(one.whom, namespace, name, lambda old: {**old, **body, **kept}, "user")
            return
        metadata = {**body.get("metadata", {}), "name": name}
        whole: Json = {**body, "metadata": {**metadata, "uid": f"garbage-{one.whom}", "generation": 1}}
        if namespace:
            whole["metadata"]["namespace"] = namespace
        server.insert(kind.plural, whole, "user")

    def _endpoint_gone(self, one: Happening, end: float) -> None:
        """Where it is the only one, the pool gets another name for it meanwhile; of a managed pool a pod is evicted."""
        if self._plan(one).managed is not None:
            path = PODS.path(SYSTEM, self._world.replica(one.whom).split(".")[1])
            self._world.server.handle("DELETE", path, {}, None, "application/json", "user")
            return
        name, replica = one.whom.split(".")
        sizes = next(pool.endpoints for pool in self._world.scenario.pools if pool.name == name)
        left = {key: jobs for key, jobs in sizes.items() if key != replica} or {"spare": 1}
        self._world.patch(GPU_POOLS, name, {"spec": {"endpoints": endpoints(left)}})
        self._after(end, lambda: self._world.patch(GPU_POOLS, name, {"spec": {"endpoints": endpoints(sizes)}}))

    def _endpoint_resized(self, one: Happening, end: float) -> None:
        if self._plan(one).managed is not None:
            raise Refused(404, "all pods take as many jobs")
        name, replica = one.whom.split(".")
        sizes = next(pool.endpoints for pool in self._world.scenario.pools if pool.name == name)
        sizes = {**sizes, replica: int(one.detail)}
        self._world.patch(GPU_POOLS, name, {"spec": {"endpoints": endpoints(sizes)}})

    def _drain(self, one: Happening, end: float) -> None:
        replica = self._world.replica(one.whom)

        def annotate(value: str | None) -> None:
            self._world.patch(LEASES, replica, {"metadata": {"annotations": {DRAIN_ANNOTATION: value}}}, SYSTEM)

        annotate("a person asks for it")
        self._after(end, lambda: annotate(None))

    def _hold_queue(self, one: Happening, end: float) -> None:
        def hold(policy: str) -> None:
            self._world.patch(VIDEO_QUEUES, "default", {"spec": {"stopPolicy": policy}}, TEAM)

        hold(one.detail)
        self._after(end, lambda: hold("None"))

    def _suspend(self, one: Happening, end: float) -> None:
        self._world.patch(VIDEO_JOBS, one.whom, {"spec": {"suspend": True}}, TEAM)
        self._after(end, lambda: self._world.patch(VIDEO_JOBS, one.whom, {"spec": {"suspend": False}}, TEAM))

    def _cancel(self, one: Happening, end: float) -> None:
        self._world.patch(VIDEO_JOBS, one.whom, {"spec": {"cancel": True}}, TEAM)

    def _delete(self, one: Happening, end: float) -> None:
        path = VIDEO_JOBS.path(TEAM, one.whom)
        self._world.server.handle("DELETE", path, {}, None, "application/json", "user")

    def _give_a_ttl(self, one: Happening, end: float) -> None:
        self._world.patch(VIDEO_JOBS, one.whom, {"spec": {"ttlSecondsAfterFinished": int(one.detail)}}, TEAM)
