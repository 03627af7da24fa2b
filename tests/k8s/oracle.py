"""Keeps what apps were told to be committed, outside of their pods, and compares when they come back.

Line by line over TCP: a greeting in JSON, then numbers of rows. `report` instead of a greeting asks
for everything that is known, as one line of JSON.
"""
import json
import socketserver
import threading
import time

LOCK = threading.Lock()
APPS = {}


class Speaker(socketserver.StreamRequestHandler):
    """One life of one app."""

    def handle(self):
        first = self.rfile.readline()
        if first.strip() == b"report":
            with LOCK:
                self.wfile.write(json.dumps(APPS).encode())
            return
        hello = json.loads(first)
        with LOCK:
            known = APPS.setdefault(hello["app"], {"lives": [], "acked": {}, "last": 0.0})
            life = judge(hello, known)
            known["lives"].append(life)
        for line in self.rfile:
            if not line.endswith(b"\n"):
                return  # a number that was cut is none
            now = time.time()
            with LOCK:
                known["acked"][hello["writer"]] = int(line)
                if life["first_ack"] is None:
                    life["first_ack"] = now
                    life["down"] = now - life["quiet_since"] if life["quiet_since"] else None
                known["last"] = now


def judge(hello, known):
    """What this life lost of what earlier ones had committed."""
    found = {writer: (last, count) for writer, last, count in hello["found"]}
    lost, torn = {}, []
    for writer, acked in known["acked"].items():
        last, count = found.get(writer, (0, 0))
        if last < acked:
            lost[writer] = acked - last
        if last != count:
            torn.append(writer)  # rows of one writer have no gaps
    return {
        "pod": hello["pod"],
        "lost": sum(lost.values()),
        "torn": torn,
        "integrity": hello["integrity"],
        "owner": hello["owner"],
        "rows_found": sum(count for _, count in found.values()),
        "quiet_since": known["last"] or None,
        "first_ack": None,
        "down": None,
    }


class Server(socketserver.ThreadingTCPServer):
    """One thread a connection."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("0.0.0.0", 7000), Speaker).serve_forever()
