"""Talks in a channel with the official client and prints one JSON object a line: what its user would see.

Usage: talk.py URL TOKEN KEY
"""

import asyncio
import json
import sys

from realtime import AsyncRealtimeClient


def show(value):
    print(json.dumps(value), flush=True)


async def commands(channel):
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        if "send" in command:
            await channel.send_broadcast("text", command["send"])
            show({"sent": "ok"})
        if "track" in command:
            await channel.track({"user": command["track"]})
            show({"tracked": "ok"})
        if "untrack" in command:
            await channel.untrack()
            show({"untracked": "ok"})


async def main():
    url, token, key = sys.argv[1:4]
    # Of itself the client waits ten seconds for an answer, and a machine may be busy.
    client = AsyncRealtimeClient(f"{url}/realtime/v1", token, timeout=120)
    channel = client.channel("talk", {"config": {"broadcast": {"ack": True}, "presence": {"key": key, "enabled": True}}})

    def heard(event):
        return lambda message: show({"broadcast": {"event": event, "payload": message.get("payload")}})

    def present():
        state = channel.presence_state()
        show({"presence": {key: [meta.get("user") for meta in metas] for key, metas in state.items()}})

    for event in ("text", "rest"):
        channel.on_broadcast(event, heard(event))
    channel.on_presence_sync(present)
    await channel.subscribe(lambda status, error: show({"status": status.value, "error": str(error) if error else None}))
    await commands(channel)
    await client.close()


asyncio.run(main())
