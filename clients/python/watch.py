"""Watches a table with the official client and prints one JSON object a line: what its user would see.

Usage: watch.py URL TOKEN SUBSCRIPTIONS
"""

import asyncio
import json
import sys

from realtime import AsyncRealtimeClient


def show(value):
    print(json.dumps(value), flush=True)


def on_change(index):
    def callback(payload):
        data = payload["data"]
        show({
            "change": {
                "index": index,
                "eventType": str(getattr(data["type"], "value", data["type"])),
                "schema": data["schema"],
                "table": data["table"],
                "errors": data.get("errors"),
                "new": data.get("record") or {},
                "old": data.get("old_record") or {},
            }
        })

    return callback


async def commands(channel):
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        if "send" in command:
            await channel.send_broadcast(command["send"], {"n": 1})
            show({"sent": "ok"})
        if "track" in command:
            await channel.track(command["track"])
            show({"tracked": "ok"})
        if "leave" in command:
            await channel.unsubscribe()
            show({"left": "ok"})


async def main():
    url, token, subscriptions = sys.argv[1:4]
    # Of itself the client waits ten seconds for an answer, and a machine may be busy.
    client = AsyncRealtimeClient(f"{url}/realtime/v1", token, timeout=120)
    channel = client.channel("clients", {"config": {"broadcast": {"self": True}}})
    for index, subscription in enumerate(json.loads(subscriptions)):
        channel.on_postgres_changes(callback=on_change(index), **subscription)
    channel.on_system(lambda payload: show({"system": payload.model_dump()}))
    channel.on_broadcast("cursor", lambda payload: show({"broadcast": {"event": "cursor", "payload": payload.get("payload")}}))
    channel.on_presence_sync(lambda: show({"presence": list(channel.presence_state())}))
    await channel.subscribe(lambda status, error: show({"status": status.value, "error": str(error) if error else None}))
    await commands(channel)
    await client.close()


asyncio.run(main())
