"""A stand-in for the API server of a large cluster, as much of it as `sqlrepctl` asks for the list.

Pods of agents in pages, a token, and port-forwards that all lead to one socket: one real agent answers
for all nodes. Each port-forward begins after a delay; some nodes refuse, and some never answer. Nothing
is kept for each node, so that thousands of them cost only what is asked of them.
"""

import asyncio
import base64
import hashlib
import json
import struct
import urllib.parse

PORT = 7077
PROTOCOL = "v5.channel.k8s.io"


def frame(payload, opcode=2):
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


async def read_frame(reader):
    head = await reader.readexactly(2)
    opcode, size = head[0] & 0x0F, head[1] & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    masked = await reader.readexactly(size)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return opcode, (int.from_bytes(masked, "big") ^ key).to_bytes(size, "big")


class Api:
    """`nodes` nodes; `dead` of them refuse, and `hung` of them never answer."""

    def __init__(self, nodes, dead, hung, delay, socket):
        self.nodes, self.delay, self.socket = nodes, delay, socket
        # Spread over all of them, none of both kinds.
        order = sorted(range(nodes), key=lambda node: hashlib.sha1(b"%d" % node).digest())
        self.dead, self.hung = set(order[:dead]), set(order[dead : dead + hung])
        self.requests, self.bytes, self.forwards, self.forwards_max = {}, 0, 0, 0

    def pod(self, node):
        """About as long as a real one, of which half is managedFields."""
        listen = ["run", f"--listen=127.0.0.1:{PORT}"]
        fields = {f"f:field-{n}": {"f:nested": {".": {}, "f:name": {}}} for n in range(100)}
        return {
            "metadata": {
                "name": f"sqlrep-agent-{node:05}",
                "namespace": "sqlrep",
                "managedFields": [{"manager": "kubelet", "fieldsV1": fields}],
            },
            "spec": {"nodeName": f"node-{node:05}", "containers": [{"name": "agent", "args": listen}]},
            "status": {"phase": "Running"},
        }

    async def serve(self):
        self.server = await asyncio.start_server(self.connection, "127.0.0.1", 0, backlog=1024)
        return self.server.sockets[0].getsockname()[1]

    async def connection(self, reader, writer):
        try:
            while await self.request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def request(self, reader, writer):
        line = await reader.readline()
        if not line:
            return False
        method, target, _ = line.decode().split()
        headers = {}
        while (line := (await reader.readline()).decode().strip()):
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        await reader.readexactly(int(headers.get("content-length", 0)))
        url = urllib.parse.urlsplit(target)
        kind = f"{method} {url.path.rsplit('/', 1)[1]}"
        self.requests[kind] = self.requests.get(kind, 0) + 1
        if url.path.endswith("/portforward"):
            node = int(url.path.split("/")[-2].rsplit("-", 1)[1])
            self.forwards += 1
            self.forwards_max = max(self.forwards_max, self.forwards)
            try:
                await self.forward(node, headers["sec-websocket-key"], reader, writer)
            finally:
                self.forwards -= 1
            return False
        if url.path.endswith("/pods"):
            query = urllib.parse.parse_qs(url.query)
            limit = int(query.get("limit", ["500"])[0])
            begin = int(query.get("continue", ["0"])[0])
            items = [self.pod(node) for node in range(begin, min(self.nodes, begin + limit))]
            metadata = {} if begin + limit >= self.nodes else {"continue": str(begin + limit)}
            answer = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}
        else:
            status = {"token": "t", "expirationTimestamp": "2100-01-01T00:00:00Z"}
            answer = {"metadata": {}, "spec": {"audiences": ["sqlrep"]}, "status": status}
        text = json.dumps(answer).encode()
        self.bytes += len(text)
        head = f"HTTP/1.1 {200 if method == 'GET' else 201} OK\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()
        return True

    async def forward(self, node, key, reader, writer):
        if node in self.hung:
            await reader.read()  # until the client gives up
            return
        await asyncio.sleep(self.delay)
        key = (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
        accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n".encode()
        )
        port = struct.pack("<H", PORT)
        writer.write(frame(b"\0" + port) + frame(b"\1" + port))
        if node in self.dead:
            why = f"dial tcp4 127.0.0.1:{PORT}: connect: connection refused"
            writer.write(frame(b"\1" + why.encode()) + frame(b"", 8))
            await writer.drain()
            return
        from_agent, to_agent = await asyncio.open_unix_connection(self.socket)

        async def down():
            while chunk := await from_agent.read(65536):
                self.bytes += len(chunk)
                writer.write(frame(b"\0" + chunk))
                await writer.drain()
            writer.write(frame(b"", 8))

        answers = asyncio.create_task(down())
        try:
            while True:
                opcode, payload = await read_frame(reader)
                if opcode == 8:
                    break
                if opcode == 9:
                    writer.write(frame(payload, 10))
                if opcode == 2 and payload[0] == 0:
                    to_agent.write(payload[1:])
        finally:
            answers.cancel()
            to_agent.close()
