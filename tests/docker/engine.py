"""A Docker engine for the compose test: the one that is here, or else a private one from Debian's packages.

The private one needs no container registry: its base image is Debian itself with its Python, under the name that the
Dockerfiles ask for, and Prometheus is Debian's. It has a folder, a socket and a control group of its own, touches
neither the host's firewall nor its bridges, and leaves nothing behind. Containers cannot reach out of it, and builds
use the host's network.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Debian 13's run on Debian 12, but for runc, which is Debian 12's.
_PACKAGES = (
    "docker.io", "docker-cli", "docker-compose", "docker-buildx", "containerd", "tini", "prometheus", "promtool"
)  # fmt: skip
_HOST_PACKAGES = {"iptables": "iptables", "runc": "runc", "debootstrap": "debootstrap"}
_NO_COPY = (
    "./var/cache/apt/archives/*.deb",
    "./var/lib/apt/lists/*",
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./dev/*",
)


class NoEngine(Exception):
    """There is no Docker engine here and none can be made; the message says why."""


class Engine:
    """Where `docker` is to be called: `environment` is for subprocesses, `is_private` says which kind it is."""

    def __init__(self, environment: dict[str, str], folder: Path | None) -> None:
        """Describe an engine that answers; `folder` is that of a private one."""
        self.environment = environment
        self.is_private = folder is not None
        self.promtool = str(folder / "root/usr/bin/promtool") if folder else shutil.which("promtool")

    def docker(self, *arguments: str, cwd: Path | None = None, seconds: float = 300) -> str:
        """Run `docker ARGUMENTS` and return what it prints.

        Raises:
            RuntimeError: it failed; the message is the end of what it said.
        """
        result = subprocess.run(
            ["docker", *arguments], cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=seconds
        )
        if result.returncode != 0:
            said = (result.stdout + result.stderr)[-4000:]
            raise RuntimeError(f"docker {' '.join(arguments)} ended with {result.returncode}:\n{said}")
        return result.stdout


@contextlib.contextmanager
def engine(base_image: str, prometheus_image: str) -> Iterator[Engine]:
    """Yield an engine that has these images or can get them.

    Raises:
        NoEngine: with the reason.
    """
    found = Engine(dict(os.environ), None)
    if shutil.which("docker") and all(_works(found, *words) for words in (("info",), ("compose", "version"))):
        yield found
        return
    _check_host()
    folder = Path(tempfile.mkdtemp(prefix="compose-test."))
    links = _bridges()
    daemon = None
    try:
        private = _install(folder)
        daemon = _start(private, folder)
        _import_base(private, folder, base_image)
        _build_prometheus(private, folder, base_image, prometheus_image)
        yield private
    finally:
        _clean(folder, links, daemon)


def _works(found: Engine, *words: str) -> bool:
    try:
        found.docker(*words, seconds=10)
    except (RuntimeError, OSError, subprocess.TimeoutExpired):
        return False
    return True


def _check_host() -> None:
    release = Path("/etc/os-release").read_text("utf-8") if Path("/etc/os-release").exists() else ""
    if os.geteuid() != 0:
        raise NoEngine("no Docker engine with compose answers, and only root can start a private one")
    if 'VERSION_ID="12"' not in release or "ID=debian" not in release or not _KEYRING.exists():
        raise NoEngine("no Docker engine with compose answers, and a private one is made on Debian 12 alone")


def _run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise NoEngine(f"{' '.join(command[:4])} ... failed: {(result.stdout + result.stderr)[-1500:]}")


def _mirror() -> str:
    for source in Path("/etc/apt").rglob("*.sources"):
        for line in source.read_text("utf-8").splitlines():
            if line.startswith("URIs:"):
                return line.split()[1]
    raise NoEngine("no package mirror stands in /etc/apt/sources.list.d/*.sources")


def _install(folder: Path) -> Engine:
    missing = [package for program, package in _HOST_PACKAGES.items() if shutil.which(program) is None]
    if missing:
        _run("apt-get", "-q", "update")
        _run("apt-get", "-q", "install", "-y", "--no-install-recommends", *missing)
    apt = folder / "apt"
    for name in (
        "etc/apt.conf.d",
        "etc/preferences.d",
        "etc/sources.list.d",
        "lib/lists/partial",
        "cache/archives/partial",
    ):
        (apt / name).mkdir(parents=True)
    for config in Path("/etc/apt/apt.conf.d").glob("99*"):
        shutil.copy(config, apt / "etc/apt.conf.d")
    (apt / "status").touch()
    (apt / "etc/sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} trixie main\n")
    places = {"Dir::Etc": "etc", "Dir::State": "lib", "Dir::State::status": "status", "Dir::Cache": "cache"}
    options = [f"-o{key}={apt / value}" for key, value in places.items()]
    debs = folder / "debs"
    debs.mkdir()
    _run("apt-get", "-q", *options, "-oAPT::Sandbox::User=root", "update")
    _run("apt-get", "-q", *options, "-oAPT::Sandbox::User=root", "download", *_PACKAGES, cwd=debs)
    for deb in debs.iterdir():
        _run("dpkg-deb", "-x", str(deb), str(folder / "root"))
    plugins = folder / "config/cli-plugins"
    plugins.mkdir(parents=True)
    for plugin in (folder / "root/usr/libexec/docker/cli-plugins").iterdir():
        (plugins / plugin.name).symlink_to(plugin)
    return Engine(
        os.environ
        | {
            "PATH": f"{folder}/root/usr/sbin:{folder}/root/usr/bin:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": f"{folder}/config",
        },
        folder,
    )


def _start(private: Engine, folder: Path) -> "subprocess.Popen[bytes]":
    command = [
        "dockerd", "--host", f"unix://{folder}/docker.sock", "--data-root", f"{folder}/data",
        "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/docker.pid", "--storage-driver", "overlay2",
        "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{folder.name}",
        "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
    ]  # fmt: skip
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            command, env=private.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    deadline = time.monotonic() + 60
    while not _works(private, "version"):
        if time.monotonic() > deadline:
            raise NoEngine("dockerd does not answer: " + (folder / "dockerd.log").read_text("utf-8")[-1500:])
        time.sleep(0.2)
    return daemon


def _import_base(private: Engine, folder: Path, name: str) -> None:
    root = folder / "base"
    _run(
        "debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv,busybox",
        "bookworm", str(root), _mirror(),
    )  # fmt: skip
    # What the host needs to reach its package index, a build needs too.
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    shutil.copyfile(certificates, root / certificates.relative_to("/"))
    if Path("/etc/pip.conf").exists():
        shutil.copyfile("/etc/pip.conf", root / "etc/pip.conf")
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    excludes = [f"--exclude={pattern}" for pattern in _NO_COPY]
    _run("tar", "-C", str(root), "--one-file-system", *excludes, "-cf", str(folder / "base.tar"), ".")
    shutil.rmtree(root)
    private.docker("import", "-c", 'CMD ["python3"]', "-c", "ENV LANG=C.UTF-8", str(folder / "base.tar"), name)
    (folder / "base.tar").unlink()


def _build_prometheus(private: Engine, folder: Path, base: str, name: str) -> None:
    recipe = Path(__file__).parent / "standins" / "prometheus.Dockerfile"
    private.docker(
        "build", "-q", "--network", "host", "--build-arg", f"BASE_IMAGE={base}", "-t", name, "-f", str(recipe),
        str(folder / "root"),
    )  # fmt: skip


def _bridges() -> set[str]:
    return {link.name for link in Path("/sys/class/net").glob("br-*")}


def _clean(folder: Path, links: set[str], daemon: "subprocess.Popen[bytes] | None") -> None:
    """End what was started and remove what was made, also after a daemon that died hard."""
    if daemon is not None:
        daemon.terminate()
        try:
            daemon.wait(15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for procs in Path("/sys/fs/cgroup").glob(f"*/{folder.name}/**/cgroup.procs"):
        for pid in map(int, procs.read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].startswith((b"containerd", b"dockerd", str(folder).encode())) and str(
                folder
            ).encode() in b" ".join(words):
                os.kill(int(process.name), signal.SIGKILL)
    time.sleep(0.3)
    for group in Path("/sys/fs/cgroup").glob(f"*/{folder.name}"):
        for inner in sorted(group.rglob("*"), reverse=True):
            if inner.is_dir():
                with contextlib.suppress(OSError):
                    inner.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
    for link in _bridges() - links:
        subprocess.run(["ip", "link", "del", link], check=False)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)
