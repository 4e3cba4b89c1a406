"""Runs a rendered pod without a cluster: its containers' arguments, users, mounts and probes.

What a container runtime would do is done with `unshare` and mounts: the containers share a network
and have file systems and process trees of their own; the root cannot be written, the volumes are
as the kubelet makes them. The image's contents are this environment's.
"""

import contextlib
import ctypes
import http.client
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.deployments.dockerfile import ROOT, read_stages
from tests.deployments.manifests import Manifest, containers
from tests.processes import wait_for

NAME: Final = "distributed-llm-node-0"
SYSTEM: Final = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET of setns(2)
_VOLUME_MODE: Final = 0o2777
"""What an emptyDir of a pod with `fsGroup` has: the kubelet's 0777, and the group's bit."""


def missing() -> str:
    """Say what this machine lacks to run a pod; empty when nothing."""
    if os.geteuid() != 0:
        return "only root can act as several users"
    tools = [tool for tool in ("unshare", "setpriv", "ip", "nsenter") if not shutil.which(tool)]
    return f"not here: {', '.join(tools)}" if tools else ""


class Container:
    """A running container.

    Args:
        outer: What keeps its namespaces.
        log: What it wrote.
        user: Whose it is, as `user:group`.
        ports: Its ports by name.
        variables: Its environment.
    """

    def __init__(
        self,
        outer: "subprocess.Popen[bytes]",
        log: Path,
        user: str,
        ports: dict[str, int],
        variables: list[str],
    ) -> None:
        self._outer = outer
        self.log = log
        self.user = user
        self._ports = ports
        self._variables = variables

    @property
    def pid(self) -> int:
        """The id, outside, of the process that is 1 inside."""
        return int(wait_for(self._children)[0])

    def wait_until(self, probe: Manifest, seconds: float) -> None:
        """Probe until it succeeds."""

        def succeeds() -> bool:
            assert self.alive, self.log.read_text()
            return self.probe(probe)

        wait_for(succeeds, seconds)

    def url(self, port: str) -> str:
        """Where a named port is, inside the pod's network."""
        return f"http://127.0.0.1:{self._ports[port]}"

    def terminate(self) -> None:
        """Send SIGTERM as a runtime does, to the container's first process."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything inside, unless it has ended."""
        # The signal of `unshare --kill-child` is forgotten when the child becomes another user.
        if self.alive and (inside := self._children()):
            os.kill(int(inside[0]), signal.SIGKILL)
        else:
            self._outer.kill()
        self._outer.wait()

    def wait(self, seconds: float) -> int:
        """Wait for the end and give its code."""
        return self._outer.wait(timeout=seconds)

    def _children(self) -> list[str]:
        return Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._outer.poll() is None

    def probe(self, probe: Manifest) -> bool:
        """Do what the kubelet does with an httpGet probe, once."""
        asked = probe["httpGet"]
        address = ("127.0.0.1", self._ports[asked["port"]])
        timeout = probe.get("timeoutSeconds", 1)
        if asked.get("scheme") == "HTTPS":
            unverified = ssl._create_unverified_context()  # noqa: S323  # as the kubelet does
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *address, timeout=timeout, context=unverified
            )
        else:
            connection = http.client.HTTPConnection(*address, timeout=timeout)
        with contextlib.closing(connection) as http_:
            try:
                http_.request("GET", asked["path"])
                return 200 <= http_.getresponse().status < 400
            except OSError:
                return False

    def run(self, *command: str) -> int:
        """Run a command inside as the container's user, as `exec` does; give its code."""
        user, group = self.user.split(":")
        entered = ["nsenter", f"--target={self.pid}", "--mount", "--root", "--wd=/", "--"]
        dropped = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={group}"]
        environment = ["env", "-i", *self._variables]
        done = subprocess.run(
            [*entered, *dropped, *environment, *command], capture_output=True, check=False
        )
        return done.returncode


class Pod:
    """A pod's network and volumes, with what runs in it.

    Args:
        template: The pod as rendered.
        directory: A place of its own that others can pass through.
        network: The name of its network.
    """

    def __init__(self, template: Manifest, directory: Path, network: str) -> None:
        self._template = template
        self._directory = directory
        self._network = network
        self._group = template["spec"]["securityContext"]["fsGroup"]
        for volume in template["spec"]["volumes"]:
            made = directory / "volumes" / volume["name"]
            made.mkdir(parents=True)
            os.chown(made, 0, self._group)
            made.chmod(_VOLUME_MODE)

    def write_secret(self, volume: str, file: str, content: str) -> None:
        """Fill a secret's volume, readable as `defaultMode` 0440 makes it."""
        path = self._directory / "volumes" / volume / file
        path.write_text(content)
        os.chown(path, 0, self._group)
        path.chmod(0o440)

    @contextlib.contextmanager
    def start(self, name: str, *flags: str, binds: tuple[Path, ...] = ()) -> Iterator[Container]:
        """Run one of the pod's containers until the block ends.

        Args:
            name: Of the container.
            flags: After those of the manifest.
            binds: What the image has beside this environment.
        """
        container = containers(self._template)[name]
        image = read_stages(name)[-1]
        user = container["securityContext"]["runAsUser"]
        root = self._directory / f"root-{name}"
        root.mkdir()
        # The image has no compiler, which Python would look for and then need a /tmp.
        variables = {"PATH": "/opt/distributed-llm/bin"} | image.environment()
        variables |= {
            variable["name"]: NAME
            for variable in container["env"]
            if variable["valueFrom"].get("fieldRef", {}).get("fieldPath") == "metadata.name"
        }
        script = "\n".join(
            [
                "set -e",
                "mount --make-rprivate /",
                f"mount -t tmpfs -o mode=0755 root {root}",
                *self._mounts(root, container, binds),
                f"mount -o remount,bind,ro {root}",
                # What `capabilities: drop: [ALL]` and `allowPrivilegeEscalation: false` mean.
                f'exec chroot {root} {_dropped(user, self._group)} env --chdir=/ -i "$@"',
            ]
        )
        given = [f"{key}={value}" for key, value in variables.items()]
        command = [*image.command("ENTRYPOINT"), *container["args"], *flags]
        isolated = ["ip", "netns", "exec", self._network, "unshare", "--mount", "--ipc", "--pid"]
        log = self._directory / f"{name}.log"
        with log.open("wb") as stderr:
            outer = subprocess.Popen(
                [*isolated, "--fork", "--kill-child", "sh", "-c", script, name, *given, *command],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        running = Container(outer, log, f"{user}:{self._group}", ports, given)
        try:
            yield running
        finally:
            running.kill()

    def _mounts(self, root: Path, container: Manifest, binds: tuple[Path, ...]) -> Iterator[str]:
        environment = Path(sys.prefix)
        image = {Path(place): Path(place) for place in SYSTEM if Path(place).exists()}
        image |= {place: place for place in (Path(sys.base_prefix), ROOT, environment, *binds)}
        image[Path("/opt/distributed-llm")] = environment
        for inside, outside in image.items():
            yield from _bind(root, inside, outside, read_only=True)
        yield f"mkdir -p {root}/proc {root}/dev {root}/etc && mount -t proc proc {root}/proc"
        yield f"echo 127.0.0.1 localhost distributed-llm-mesh > {root}/etc/hosts"
        for device in DEVICES:
            yield f"touch {root}/dev/{device} && mount --bind /dev/{device} {root}/dev/{device}"
        for mount in container["volumeMounts"]:
            outside = self._directory / "volumes" / mount["name"]
            yield from _bind(
                root, Path(mount["mountPath"]), outside, read_only=mount.get("readOnly", False)
            )

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let the calling thread open its sockets in the pod's network until the block ends."""
        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self._network}", os.O_RDONLY)
        try:
            assert libc.setns(there, _NEW_NETWORK) == 0
            yield
        finally:
            assert libc.setns(here, _NEW_NETWORK) == 0
            os.close(here)
            os.close(there)


def _dropped(user: int, group: int) -> str:
    return (
        f"setpriv --reuid={user} --regid={group} --groups={group} "
        "--no-new-privs --bounding-set=-all --inh-caps=-all"
    )


def _bind(root: Path, inside: Path, outside: Path, *, read_only: bool) -> Iterator[str]:
    place = f"{root}{inside}"
    yield f"mkdir -p {place} && mount --bind {outside.resolve()} {place}"
    if read_only:
        yield f"mount -o remount,bind,ro {place}"


@contextlib.contextmanager
def open_pod(template: Manifest, directory: Path) -> Iterator[Pod]:
    """Make a pod's network and volumes; both are gone when the block ends."""
    network = f"pod-{os.getpid()}"
    _ip("netns", "add", network)
    try:
        _ip("-netns", network, "link", "set", "lo", "up")
        yield Pod(template, directory, network)
    finally:
        _ip("netns", "delete", network)


def _ip(*arguments: Any) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
