"""`sqlrepctl list` over a large cluster: how long it takes, and what it needs.

Called by ./list, which builds what is needed. One real agent with some databases answers for all
nodes, through a stand-in for the API server (api.py); one node in a hundred is dead, and one hangs.
"""

import argparse
import asyncio
import json
import os
import pathlib
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "versus")]

import api  # noqa: E402
from fleet import Metered, all_follow, databases, row  # noqa: E402


class Running(threading.Thread):
    """The stand-in, on a thread of its own."""

    def __init__(self, stand_in):
        super().__init__(daemon=True)
        self.stand_in, self.ready = stand_in, threading.Event()
        self.loop = asyncio.new_event_loop()

    def run(self):
        self.port = self.loop.run_until_complete(self.stand_in.serve())
        self.ready.set()
        self.loop.run_forever()

    def config(self, path):
        self.start()
        self.ready.wait()
        here = {"cluster": "here", "user": "jane"}
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "jane", "user": {"token": "of-the-kubeconfig"}}],
            "contexts": [{"name": "here", "context": here}],
        }))


def listed(ctl, config, folder, arguments):
    """Runs it; its time, memory, most descriptors, and what it said."""
    out, err = folder / "out", folder / "err"
    begun = time.monotonic()
    with out.open("wb") as out_file, err.open("wb") as err_file:
        pid = os.posix_spawn(
            ctl, [str(ctl), *arguments], {"KUBECONFIG": str(config)},
            file_actions=[(os.POSIX_SPAWN_DUP2, out_file.fileno(), 1), (os.POSIX_SPAWN_DUP2, err_file.fileno(), 2)],
        )
    most = 0
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        most = max(most, len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.01)
    return {
        "seconds": time.monotonic() - begun, "exit": os.waitstatus_to_exitcode(status),
        "megabytes": usage.ru_maxrss / 1024, "cpu": usage.ru_utime + usage.ru_stime,
        "descriptors": most, "rows": out.read_bytes().count(b"\n"), "bytes": out.stat().st_size,
        "said": err.read_text().splitlines(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--agent", type=pathlib.Path, required=True)
    parser.add_argument("--ctl", type=pathlib.Path, required=True)
    parser.add_argument("--nodes", default="100,1000,5000")
    parser.add_argument("--databases", type=int, default=20)
    parser.add_argument("--delay-ms", type=float, default=100)
    parser.add_argument("--bad", type=float, default=0.01, help="part of the nodes that is dead, and that hangs")
    parser.add_argument("--say", action="store_true", help="what was said on standard error, too")
    parser.add_argument("arguments", nargs="*", default=["list"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        folder = pathlib.Path(scratch)
        system = Metered(folder / "one", argparse.Namespace(agent=args.agent, ctl=args.ctl))
        opened = databases(system, args.databases)
        system.start(args.databases)
        try:
            all_follow(system, args.databases)
            row("nodes", "dead", "hung", "time", "CPU", "memory", "descriptors", "forwards at once", "lines", "bytes from the API", "lines of words", "exit")
            row(*["---"] * 12)
            for nodes in map(int, args.nodes.split(",")):
                bad = round(nodes * args.bad)
                stand_in = api.Api(nodes, bad, bad, args.delay_ms / 1000, str(folder / "one" / "s"))
                running, config = Running(stand_in), folder / "config"
                running.config(config)
                found = listed(args.ctl, config, folder, args.arguments)
                row(
                    f"{nodes:,}", bad, bad, f"{found['seconds']:.1f} s", f"{found['cpu']:.1f} s", f"{found['megabytes']:.0f} MB",
                    found["descriptors"], stand_in.forwards_max, f"{found['rows']:,}", f"{stand_in.bytes / 1e6:.1f} MB",
                    len(found["said"]), found["exit"],
                )
                sys.stdout.flush()
                if args.say:
                    print("\n".join(found["said"][:15]))
        finally:
            system.stop()
    del opened


main()
