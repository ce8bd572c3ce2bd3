"""Keeps maps of live rows with the official client, as its user would, and prints what is in them.

Usage: live.py URL TOKEN SUBSCRIPTIONS

A map for each subscription: emptied at each SUBSCRIBED, INSERT and UPDATE go into it, DELETE out of it. The key is `id`.
The maps are printed, rows ordered by key, when something has changed. The client sends no other keys than it knows: what
is live is said in the filter.
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
            await channel.send_broadcast(command["send"], {"n": 1})
        if "track" in command:
            await channel.track(command["track"])


async def main():
    url, token, subscriptions = sys.argv[1:4]
    client = AsyncRealtimeClient(f"{url}/realtime/v1", token, timeout=120, max_retries=1000)
    channel = client.channel("live", {"config": {"broadcast": {"self": True}}})
    maps = []

    def show_maps():
        show({"maps": [[row for _, row in sorted(rows.items())] for rows in maps]})

    def on_change(rows):
        def callback(payload):
            data = payload["data"]
            if getattr(data["type"], "value", data["type"]) == "DELETE":
                rows.pop(data["old_record"]["id"], None)
            else:
                rows[data["record"]["id"]] = data["record"]
            show_maps()

        return callback

    def on_system(payload):
        show({"system": payload.model_dump()})
        show_maps()

    def on_status(status, error):
        if status.value == "SUBSCRIBED":
            for rows in maps:
                rows.clear()
        show({"status": status.value, "error": str(error) if error else None})

    for subscription in json.loads(subscriptions):
        rows = {}
        if "@live" in subscription.get("filter", ""):
            maps.append(rows)
        channel.on_postgres_changes(callback=on_change(rows), **subscription)
    channel.on_system(on_system)
    channel.on_broadcast("cursor", lambda payload: show({"broadcast": {"event": "cursor"}}))
    channel.on_presence_sync(lambda: show({"presence": list(channel.presence_state())}))
    await channel.subscribe(on_status)
    await commands(channel)
    await client.close()


asyncio.run(main())
