"""The NFS server of the guest, two clients of it, and everything that can happen to them.

The server is the guest itself. Each client is a network namespace of its own, so that its mounts
have caches, a lease and a way to the server that are its own; programs reach both by their mounts.
Needs root and the packages of the bed, so it runs in the guest only.
"""

import os
import pathlib
import subprocess
import time

CLIENTS = (1, 2)
# The kernel's own default is 90 s; it must be set before the server starts.
GRACE = 10
# What a cluster's nodes mount with, but for a shorter time to the first retry.
HARD = {"4.1": "vers=4.1,hard,timeo=50,retrans=2", "3": "vers=3,nolock,hard,timeo=50,retrans=2"}


def run(*command, patience=60, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=patience, check=False, **options
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.returncode}: {done.stderr}")
    return done.stdout


def write(path, text):
    pathlib.Path(path).write_text(text)


class Export:
    """A file system of its own, exported; `path` is where the server itself sees it."""

    def __init__(self, server, name, fsid, megabytes=256, squash="no_root_squash"):
        self.server, self.name, self.path = server, name, pathlib.Path("/srv") / name
        self.image = pathlib.Path(f"/run/bed/{name}.ext4")
        self.options = f"sync,no_subtree_check,{squash},fsid={fsid}"
        self.make(megabytes)
        server.exports[name] = self
        self.share()

    def make(self, megabytes):
        self.path.mkdir(exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(megabytes << 20)
        run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self.attach()

    def attach(self):
        run("mount", "-o", "loop", self.image, self.path)
        self.path.chmod(0o777)

    def detach(self):
        run("umount", self.path)

    def share(self, access="rw"):
        run("exportfs", "-o", f"{access},{self.options}", f"*:{self.path}")

    def unshare(self):
        """The server forgets it: what clients hold of it is stale."""
        run("exportfs", "-u", f"*:{self.path}")
        run("exportfs", "-f")

    def swap(self, image):
        """Another file system at the same place, under the same fsid. Clients are not told."""
        self.server.stop()
        self.detach()
        self.image, before = image, self.image
        if not image.exists():
            self.make(32)
        else:
            self.attach()
        self.server.start()
        self.server.end_grace()
        return before


class Server:
    """The kernel's NFS server."""

    def __init__(self):
        self.exports = {}
        for module in ("veth", "nfs", "nfsv4", "nfsv3", "nfsd", "loop"):
            run("modprobe", module)
        for number in CLIENTS:
            self.connect(number)
        with open("/etc/passwd", "a") as users:
            users.write("_rpc:x:950:65534::/run/rpcbind:/bin/false\n")
            users.write("statd:x:951:65534::/var/lib/nfs:/bin/false\n")
        for made in ("v4recovery", "rpc_pipefs", "nfsdcltrack", "sm", "sm.bak"):
            pathlib.Path("/var/lib/nfs", made).mkdir(parents=True, exist_ok=True)
        for made in ("etab", "rmtab", "state"):
            pathlib.Path("/var/lib/nfs", made).touch()
        pathlib.Path("/run/rpcbind").mkdir(exist_ok=True)
        pathlib.Path("/run/sendsigs.omit.d").mkdir(exist_ok=True)
        run("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
        run("mount", "-t", "rpc_pipefs", "rpc_pipefs", "/var/lib/nfs/rpc_pipefs")
        run("sysctl", "-qw", f"fs.nfs.nlm_grace_period={GRACE}")
        write("/proc/fs/nfsd/nfsv4leasetime", f"{GRACE}\n")
        write("/proc/fs/nfsd/nfsv4gracetime", f"{GRACE}\n")
        # An overlay cannot be the root of NFSv4's paths, a tmpfs can.
        write("/etc/exports", "/srv *(ro,fsid=0,no_subtree_check,no_root_squash)\n")
        run("rpcbind", "-w")
        run("rpc.statd", "--no-notify")
        run("exportfs", "-ra")
        self.start()
        run("rpc.mountd")
        self.end_grace()

    @staticmethod
    def connect(number):
        space, link, net = f"c{number}", f"v{number}", f"10.9.{number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "addr", "add", f"{net}.1/24", "dev", link)
        run("ip", "link", "set", link, "up")
        run("ip", "-n", space, "addr", "add", f"{net}.2/24", "dev", "eth0")
        # Of two clients that call themselves the same, the second puts the first one out.
        name = "/sys/fs/nfs/net/nfs_client/identifier"
        run("ip", "netns", "exec", space, "sh", "-c", f"echo sqlrep-{space} >{name}")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "link", "set", "eth0", "up")

    def mount(self, number, export, version):
        """Mounts an export as client `number` does; returns where."""
        where = pathlib.Path(f"/mnt/{export.name}-{number}")
        where.mkdir()
        path = f"/{export.name}" if version == "4.1" else export.path
        socket, hidden = pathlib.Path("/run/rpcbind.sock"), pathlib.Path("/run/rpcbind.hidden")
        # Linux 6.1 finds rpcbind by this path from every namespace: the client's lock manager would
        # take the place of the server's.
        if version == "3":
            socket.rename(hidden)
        try:
            run("nsenter", f"--net=/run/netns/c{number}", "mount.nfs",
                f"10.9.{number}.1:{path}", where, "-o", HARD[version])
        finally:
            if version == "3":
                hidden.rename(socket)
        return where

    @staticmethod
    def unmount(where):
        run("umount", "-lf", where)
        where.rmdir()

    @staticmethod
    def stop():
        """It says goodbye and forgets what its clients held."""
        run("rpc.nfsd", "0")

    @staticmethod
    def start():
        run("rpc.nfsd", "-H", "0.0.0.0", "4")

    @staticmethod
    def end_grace():
        for switch in ("/proc/fs/nfsd/v4_end_grace", "/proc/fs/lockd/nlm_end_grace"):
            try:
                write(switch, "Y\n")
            except OSError:
                pass  # it had not begun, or is over

    @staticmethod
    def cut(*clients):
        """The way to the server is a black hole for these clients."""
        for number in clients or CLIENTS:
            run("ip", "link", "set", f"v{number}", "down")

    @staticmethod
    def mend(*clients):
        for number in clients or CLIENTS:
            run("ip", "link", "set", f"v{number}", "up")


def stuck(pid):
    """Threads of a process that wait in the kernel and take no signal but the last."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            if fields[0] == "D":
                found.append((task / "comm").read_text().strip())
        except OSError:
            pass  # it ended meanwhile
    return found


def poison(where, names):
    """Makes a client remember that these names are not there, for as long as it likes."""
    if where.is_dir():
        os.listdir(where)
        for name in names:
            (where / name).exists()
    return time.monotonic()
