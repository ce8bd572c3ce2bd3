"""Watches topics with a first-generation client and prints one JSON object a line: what its user would see.

Usage: python watch.py URL TOPICS EVENTS [HEARTBEAT]; runs with realtime 0.0.4 and 1.0. The client does not tell whether
a join succeeded. HEARTBEAT is the time between two heartbeats in seconds, which the client has as 5.
"""

import asyncio
import json
import sys

# The client takes the current loop for granted.
asyncio.set_event_loop(asyncio.new_event_loop())

from realtime.connection import Socket  # noqa: E402

url, topics, events = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])


def listener(topic, bound):
    def show(payload):
        kept = {key: payload.get(key) for key in ("type", "schema", "table", "record", "old_record")}
        print(json.dumps({"change": {"topic": topic, "bound": bound, **kept}}), flush=True)

    return show


socket = Socket(url, **({"hb_interval": int(sys.argv[4])} if len(sys.argv) > 4 else {}))
socket.connect()
for topic in topics:
    channel = socket.set_channel(topic)
    channel.join()
    for bound in events:
        channel.on(bound, listener(topic, bound))
socket.listen()
