"""The internet of the picture: one name server and one web server on every address of this machine. `internet.py ZONE`, where
ZONE has lines `NAME ADDRESS`. GET /BYTES gives so many bytes at once, GET /BYTES/RATE so many in a second; what is sent with PUT is
read and forgotten, as fast as the name of the file, a number of bytes in a second, says."""

import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The name of the process in the picture.
with open("/proc/self/comm", "w", encoding="ascii") as comm:
    comm.write("internet")

with open(sys.argv[1], encoding="utf-8") as zone:
    ADDRESSES = dict(line.split() for line in zone if line.strip())


def paced(length, rate):
    """Parts of a length, each in its time: so many in a second, a little more and less in turn."""
    while length > 0:
        part = min(length, max(1, int(rate / 20 * (0.7 + 0.6 * (time.monotonic() % 1.7) / 1.7))))
        yield part
        length -= part
        if length > 0:
            time.sleep(0.05)


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length, _, rate = self.path.strip("/").partition("/")
        self.send_response(200)
        self.send_header("Content-Length", length)
        self.end_headers()
        for part in paced(int(length), int(rate or length)):
            self.wfile.write(bytes(part))

    def do_PUT(self):
        length = int(self.headers["Content-Length"])
        for part in paced(length, int(self.path.strip("/"))):
            self.rfile.read(part)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def answer(question):
    """The answer to an A question; to any other one, that there is nothing."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    (kind,) = struct.unpack_from("!H", question, at + 1)
    address = ADDRESSES.get(".".join(labels)) if kind == 1 else None
    head = question[:2] + struct.pack("!5H", 0x8180, 1, 1 if address else 0, 0, 0)
    record = struct.pack("!3HIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address) if address else b""
    return head + question[12 : at + 5] + record


def names():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((ADDRESSES["resolver"], 53))
    while True:
        question, sender = server.recvfrom(512)
        server.sendto(answer(question), sender)


threading.Thread(target=names, daemon=True).start()
ThreadingHTTPServer(("", 80), Web).serve_forever()
