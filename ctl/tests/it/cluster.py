"""A stand-in for the API server, as much of it as sqlrepctl speaks to.

Real HTTP on loopback: agents' pods, tokens, permissions, and port-forward over a web socket, framed
as a kubelet frames it (protocols v5 and v4.channel.k8s.io). What it says comes from a JSON file:

    agents    [{"node", "pod", "socket"}]; the port-forward goes to that unix socket or HOST:PORT.
    users     whose token it is, for the agents that ask: {token: user}
    denied    permissions that one user has not: "user verb resource"
              "socket": null refuses as a kubelet does whose container does not listen;
              "hang": true never answers; "phase" is Running unless said
    pods      the pods with the label, as JSON
    rollouts  deployments, as JSON
    bound     names of bound admission policies
    gate      whether a pod that is tried gets the gate
    accounts  {"namespace/name": token}; others are not found
    refused   permissions that nobody has: "verb resource"
    page      how many pods of agents are in one answer
    protocol  the web socket protocol that is spoken

The port is printed when it listens. It ends with its standard input. Standard library only.
"""

import base64
import hashlib
import http.server
import json
import os
import socket
import struct
import sys
import threading
import urllib.parse

WORLD = json.load(open(sys.argv[1]))
PORT = 7077


def reply(handler, code, body):
    text = json.dumps(body).encode()
    handler.send_response(code)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text)


def refuse(handler, code, message):
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
    reason = {403: "Forbidden", 404: "NotFound"}[code]
    reply(handler, code, {**status, "code": code, "message": message, "reason": reason})


def listed(handler, kind, version, items, metadata={}):
    reply(handler, 200, {"kind": kind, "apiVersion": version, "metadata": metadata, "items": items})


def agent_pod(agent):
    listen = ["run", "--listen=unix:/var/lib/sqlrep/agent.sock", f"--listen=127.0.0.1:{PORT}"]
    return {
        "metadata": {"name": agent["pod"], "namespace": "sqlrep"},
        "spec": {"nodeName": agent["node"], "containers": [{"name": "agent", "args": listen}]},
        "status": {"phase": agent.get("phase", "Running")},
    }


def allowed(attributes, user=None):
    resource = attributes["resource"]
    if attributes.get("subresource"):
        resource += "/" + attributes["subresource"]
    right = f"{attributes['verb']} {resource}"
    denied = WORLD.get("denied", [])
    return right not in WORLD.get("refused", []) and f"{user} {right}" not in denied


def connect(address):
    """To a unix socket, or to HOST:PORT."""
    if address.startswith("/"):
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(address)
        return upstream
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)))


def frame(opcode, payload):
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
    return head + payload


def read_frame(file):
    """One frame of a client: opcode and payload, unmasked; None at the end."""
    head = file.read(2)
    if len(head) < 2:
        return None
    opcode, size = head[0] & 0x0F, head[1] & 0x7F
    assert head[0] & 0x80 and head[1] & 0x80, "a client sends whole, masked frames here"
    if size == 126:
        (size,) = struct.unpack("!H", file.read(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", file.read(8))
    mask = file.read(4)
    payload = bytearray(file.read(size))
    for index in range(size):
        payload[index] ^= mask[index % 4]
    return opcode, bytes(payload)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        path = url.path
        labels = urllib.parse.parse_qs(url.query).get("labelSelector", [""])[0]
        if path == "/version":
            version = {"major": "1", "minor": "36", "gitVersion": "v1.36.2"}
            names = "gitCommit gitTreeState buildDate goVersion compiler platform".split()
            reply(self, 200, {**version, **dict.fromkeys(names, "")})
        elif path == "/api/v1/namespaces/sqlrep/pods":
            wanted = "app.kubernetes.io/name=sqlrep,app.kubernetes.io/component=agent"
            found = WORLD["agents"] if labels == wanted else []
            page = WORLD.get("page", len(found) or 1)
            begin = int(urllib.parse.parse_qs(url.query).get("continue", ["0"])[0])
            rest = {"continue": str(begin + page)} if begin + page < len(found) else {}
            found = found[begin : begin + page]
            listed(self, "PodList", "v1", [agent_pod(agent) for agent in found], rest)
        elif path == "/api/v1/pods" and labels == "sqlrep.io/replicate=true":
            listed(self, "PodList", "v1", WORLD.get("pods", []))
        elif path == "/apis/apps/v1/deployments":
            listed(self, "DeploymentList", "apps/v1", WORLD.get("rollouts", []))
        elif path.startswith("/apis/admissionregistration.k8s.io/v1/"):
            name = path.rsplit("/", 1)[1]
            if name in WORLD.get("bound", []):
                reply(self, 200, {"metadata": {"name": name}, "spec": {}})
            else:
                refuse(self, 404, f"{name} not found")
        elif path.endswith("/portforward"):
            assert url.query == f"ports={PORT}" or url.query == f"&ports={PORT}", url.query
            self.forward(path.split("/")[-2])
        else:
            refuse(self, 404, f"the stand-in does not know {path}")

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        parts, body = url.path.strip("/").split("/"), self.body()
        if parts[-1] == "token":
            account = f"{parts[3]}/{parts[5]}"
            assert body["spec"]["audiences"] == ["sqlrep"], body
            token = WORLD.get("accounts", {}).get(account)
            if not allowed({"verb": "create", "resource": "serviceaccounts/token"}):
                refuse(self, 403, "jane cannot create resource serviceaccounts/token")
            elif token is None:
                refuse(self, 404, f"serviceaccounts {parts[5]} not found")
            else:
                status = {"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"}
                reply(self, 201, {"metadata": {}, "spec": body["spec"], "status": status})
        elif parts[-1] == "tokenreviews":
            user = WORLD.get("users", {}).get(body["spec"]["token"])
            status = {"authenticated": False}
            if user and body["spec"]["audiences"] == ["sqlrep"]:
                status = {"authenticated": True, "audiences": ["sqlrep"], "user": {"username": user}}
            reply(self, 201, {"metadata": {}, "spec": body["spec"], "status": status})
        elif parts[-1] in ("selfsubjectaccessreviews", "subjectaccessreviews"):
            user = body["spec"].get("user")
            status = {"allowed": allowed(body["spec"]["resourceAttributes"], user)}
            reply(self, 201, {"metadata": {}, "spec": body["spec"], "status": status})
        elif parts[-1] == "pods":
            assert "dryRun=All" in url.query, self.path
            if WORLD.get("gate"):
                body["spec"]["initContainers"] = [{"name": "sqlrep-gate"}]
            reply(self, 201, body)
        else:
            refuse(self, 404, f"the stand-in does not know {self.path}")

    def forward(self, name):
        agent = next(agent for agent in WORLD["agents"] if agent["pod"] == name)
        if agent.get("hang"):
            threading.Event().wait()
        protocol = WORLD.get("protocol", "v5.channel.k8s.io")
        assert protocol in self.headers["sec-websocket-protocol"]
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        for header, value in [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
            ("Sec-WebSocket-Protocol", protocol),
        ]:
            self.send_header(header, value)
        self.end_headers()
        self.close_connection = True
        lock = threading.Lock()

        def send(opcode, payload):
            with lock:
                self.wfile.write(frame(opcode, payload))
                self.wfile.flush()

        # first frame of each channel: its port
        send(2, bytes([0]) + struct.pack("<H", PORT))
        send(2, bytes([1]) + struct.pack("<H", PORT))
        if agent["socket"] is None:
            message = f"dial tcp4 127.0.0.1:{PORT}: connect: connection refused"
            send(2, bytes([1]) + message.encode())
            send(8, b"")
            return
        upstream = connect(agent["socket"])

        def down():
            try:
                while chunk := upstream.recv(32768):
                    send(2, bytes([0]) + chunk)
                send(8, b"")
            except (OSError, ValueError):
                pass  # the client went away

        threading.Thread(target=down, daemon=True).start()
        while (got := read_frame(self.rfile)) is not None:
            opcode, payload = got
            if opcode == 8:
                break
            if opcode == 9:
                send(10, payload)
            if opcode == 2 and payload[0] == 0:
                upstream.sendall(payload[1:])
        upstream.close()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
os._exit(0)
