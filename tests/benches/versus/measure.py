"""What the operating system says of processes and files. Nothing here judges."""

import ctypes
import os
import re
import struct
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
LTX_NAME = re.compile(r"^[0-9a-f]{16}-[0-9a-f]{16}\.ltx$")
IN_CREATE, IN_MOVED_TO = 0x100, 0x80


def cpu_seconds(pid):
    """User and system time of a process so far, ended threads included; resolution 10 ms."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_seconds_fine(pid):
    """The same of the threads that live, in nanoseconds: for processes that do almost nothing."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
                total += int(stat.read().split()[0])
        except FileNotFoundError:
            pass
    return total / 1e9


def memory(pid):
    """Resident memory now and at its largest, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    kib = lambda name: int(fields[name].split()[0]) * 1024
    return kib("VmRSS"), kib("VmHWM")


def tree_bytes(root):
    """Files below a directory: how many, and their bytes."""
    count = size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            if LTX_NAME.match(name):
                count += 1
                size += os.path.getsize(os.path.join(folder, name))
    return count, size


class Largest:
    """The largest size of a file while this runs, looked at every 5 ms."""

    def __init__(self, path):
        self.path, self.bytes = path, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while not self.over.wait(0.005):
            try:
                self.bytes = max(self.bytes, os.path.getsize(self.path))
            except FileNotFoundError:
                pass

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Arrivals:
    """When finished LTX files appear in directories: by link or by rename, by inotify."""

    def __init__(self, folders):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK)
        self.seen = []
        self.folder_of = {}
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
            watch = self.libc.inotify_add_watch(
                self.fd, os.fsencode(folder), IN_CREATE | IN_MOVED_TO
            )
            if watch < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {folder}")
            self.folder_of[watch] = folder
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while not self.over.is_set():
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            now, at = time.time(), 0
            while at < len(data):
                watch, _, _, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode(errors="replace")
                at += 16 + length
                if LTX_NAME.match(name):
                    self.seen.append((now, self.folder_of[watch]))

    def close(self):
        self.over.set()
        self.thread.join()
        os.close(self.fd)


def percentile(values, part):
    """The value below which that part of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
