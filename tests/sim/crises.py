"""What happens to a simulated cluster: processes are killed and paused, hosts crash, mounts hang, clocks jump."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.sim.children import Attempt
from tests.sim.processes import Host, Process
from tests.sim.witness import truth

from furu_async._executors.runs import Run
from furu_async.report import RunReport

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster


class Controller:
    """One life of one controller."""

    def __init__(self, number: int, process: Process, targets: list[Any], options: dict[str, Any]) -> None:
        self.number = number
        self.process = process
        self.targets = targets
        self.options = options
        self.run: Run | None = None
        self.executor: Any = None
        self.keeper: Process | None = None
        self.report: RunReport | None = None
        self.error: BaseException | None = None
        self.over = False


class Crises:
    """See the module.

    Args:
        left: how many there are to be.

    Attributes:
        happened: how many there were.
    """

    def __init__(self, cluster: Cluster, left: int) -> None:
        self.cluster = cluster
        self.loop = cluster.loop
        self.rng = cluster.rng
        self.left = left
        self.happened = 0
        self.kinds: list[tuple[str, int, Callable[[Controller], None]]] = [
            ("kill controller", 2, self._kill_controller),
            ("kill keeper", 1, self._kill_keeper),
            ("kill both", 2, self._kill_both),
            ("pause controller", 1, self._pause_controller),
            ("pause keeper", 1, self._pause_keeper),
            ("pause both", 2, self._pause_both),
            ("kill child", 1, self._kill_child),
            ("crash host", 9 if cluster.outages else 1, lambda one: self._crash(one.process.host)),
            ("hang mount", 1, self._hang),
            ("sleep", 2, self._sleep),
            ("wall jump", 1, self._jump),
            ("cancel", 1, self._cancel),
        ]

    # -- when ------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """There is more to come."""
        return self.left > 0 and not self.cluster.calm

    def plan(self, controller: Controller) -> None:
        """Something happens at a step that is drawn, a few steps or some hundred from now, or at some time."""
        if not self.open:
            return
        draw, process = self.rng.random(), controller.process
        if draw < 0.3:
            self.loop.at(None, self.rng.uniform(0, 60), self.strike, controller)
        elif draw > 0.5:
            process.crisis_at = process.steps + 1 + int(10 ** self.rng.uniform(0, 3.3))
            process.crisis = partial(self.strike, controller)

    def on_attempt(self, attempt: Attempt) -> None:
        """An attempt has begun: the time for something to happen to its controller."""
        if self.open and self.rng.random() < 0.4:
            controller = next(one for one in self.cluster.controllers if one.process is attempt.owner)
            delay = self.rng.choice([0.01, 1.0, 10.0]) * self.rng.random()
            self.loop.at(None, delay, self.strike, controller)

    def on_keeper(self, supervisor: Process, keeper: Process) -> None:
        """A keeper was started."""
        controller = next(one for one in self.cluster.controllers if one.process is supervisor)
        controller.keeper = keeper
        if self.open and self.rng.random() < 0.5:
            keeper.crisis_at = 1 + int(10 ** self.rng.uniform(0, 2.7))
            keeper.crisis = partial(self.strike, controller)

    def strike(self, controller: Controller) -> None:
        """One of them happens now, to this controller or what is around it."""
        if not self.open or controller.over or controller.process.dead:
            return
        self.left -= 1
        self.happened += 1
        what = self.rng.choices(self.kinds, [weight for _, weight, _ in self.kinds])[0]
        truth(self.cluster.watch.say, "crisis", what[0], repr(controller.process))
        what[2](controller)
        for one in self.cluster.controllers:
            if one.process.dead and not one.over:
                one.over = True
                if self.rng.random() < 0.7:
                    self.loop.at(None, self.rng.choice([0.1, self.rng.uniform(0, 60)]), self._restart, one)
        if not controller.process.dead:
            self.plan(controller)

    # -- what ------------------------------------------------------------------------------------------------

    def _kill_controller(self, controller: Controller) -> None:
        self.loop.kill(controller.process)

    def _kill_keeper(self, controller: Controller) -> None:
        if controller.keeper is not None:
            self.loop.kill(controller.keeper)

    def _kill_both(self, controller: Controller) -> None:
        both = [self._kill_controller, self._kill_keeper]
        self.rng.shuffle(both)
        for kill in both:
            kill(controller)

    def _pause_controller(self, controller: Controller) -> None:
        self.loop.pause(controller.process, self._seconds())

    def _pause_keeper(self, controller: Controller) -> None:
        if controller.keeper is not None:
            self.loop.pause(controller.keeper, self._seconds())

    def _pause_both(self, controller: Controller) -> None:
        seconds = self._seconds()
        self.loop.pause(controller.process, seconds)
        if controller.keeper is not None:
            self.loop.pause(controller.keeper, seconds)

    def _seconds(self) -> float:
        short = self.rng.uniform(0, 5)
        return self.rng.choice([short, self.cluster.config.lease_secs * self.rng.uniform(0.7, 3)])

    def _kill_child(self, controller: Controller) -> None:
        children = [p for p in self.loop.processes if p.kind == "child" and not p.dead]
        if children:
            self.loop.kill(self.rng.choice(children))

    def _hang(self, controller: Controller) -> None:
        host = controller.process.host
        host.hung_until = self.loop.now + self._seconds()
        host.hangs.append((self.loop.now, host.hung_until))

    def _sleep(self, controller: Controller) -> None:
        """The lid is closed: nothing runs on this host for a while, and not everything wakes up at once."""
        host, lease = controller.process.host, self.cluster.watch.lease
        seconds = lease * self.rng.uniform(0.7, 3)
        host.asleep_until = max(host.asleep_until, self.loop.now + seconds)
        late = lease * self.rng.choice([0.0, 0.1, 0.8])
        for process in host.processes.values():
            self.loop.pause(process, seconds + late * self.rng.random())

    def _jump(self, controller: Controller) -> None:
        controller.process.host.wall_offset += self.rng.choice([-3600, 3600])

    def _cancel(self, controller: Controller) -> None:
        if controller.run is not None:
            self.loop.at(controller.process, 0.0, controller.run.cancel)

    def _crash(self, host: Host) -> None:
        cluster = self.cluster
        for process in list(host.processes.values()):
            self.loop.kill(process)
        if cluster.storage is not None:
            cluster.storage.crash(host.name)
        truth(cluster.watch.crashed)
        host.up = False
        self.loop.at(None, self.rng.uniform(1, 60), self._boot, host)

    def _boot(self, host: Host) -> None:
        if not host.up:
            host.up = True
            host.boot += 1
            host.asleep_until = 0.0

    def _restart(self, controller: Controller) -> None:
        """The same call once more, on its host if that is up."""
        cluster = self.cluster
        up = [host for host in cluster.hosts if host.up]
        if cluster.calm or not up:
            return
        host = controller.process.host
        if not host.up or self.rng.random() < 0.2:
            host = self.rng.choice(up)
        cluster.start(controller.number, host, controller.targets, controller.options)

    def heal(self) -> None:
        """The end of all faults."""
        cluster = self.cluster
        cluster.calm = True
        cluster.watch.say("heals")
        for host in cluster.hosts:
            self._boot(host)
            host.hung_until = host.asleep_until = 0.0
            host.hangs = [(begin, min(end, self.loop.now)) for begin, end in host.hangs]
        if cluster.storage is not None:
            cluster.storage.heal()
        for process in self.loop.processes:
            self.loop.resume(process)
        self.loop.at(None, 30.0, cluster.check_claims, {})
