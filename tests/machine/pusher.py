#!/usr/bin/env python3
"""Push at the edge from the internet, five times a second until killed: connections and datagrams to ports that are not listed,
pings and connections to networks that only the tunnel may carry. The edge's hardware address is known beforehand, so that packets
are on the cable before anything in the machine runs."""
import socket
import time

EDGE = [(socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8:1::2")]
BEHIND = [(socket.AF_INET, "192.168.88.2"), (socket.AF_INET, "10.77.88.2"), (socket.AF_INET6, "fd88::2")]
ECHO = {socket.AF_INET: (socket.IPPROTO_ICMP, 8), socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128)}


def dial(family, address, port):
    """A connection attempt that nothing waits for."""
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.connect_ex((address, port))
    return connection


def echo(family, address):
    protocol, kind = ECHO[family]
    body = bytes([kind, 0, 0, 0, 0, 1, 0, 1])
    total = sum(int.from_bytes(body[i : i + 2], "big") for i in range(0, 8, 2))
    checksum = (~(total + (total >> 16))) & 0xFFFF
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.sendto(body[:2] + checksum.to_bytes(2, "big") + body[4:], (address, 0))


def push():
    """One round of attempts, each independent: a full queue or an unreachable address is no reason to stop."""
    open_connections = []
    for family, address in EDGE:
        for act in (
            lambda: open_connections.append(dial(family, address, 8080)),
            lambda: socket.socket(family, socket.SOCK_DGRAM).sendto(b"?", (address, 8080)),
        ):
            attempt(act)
    for family, address in BEHIND:
        attempt(lambda: echo(family, address))
        attempt(lambda: open_connections.append(dial(family, address, 443)))
    time.sleep(0.2)
    for connection in open_connections:
        connection.close()


def attempt(act):
    try:
        act()
    except OSError:
        pass


while True:
    push()
