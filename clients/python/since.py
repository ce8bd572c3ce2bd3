"""Watches a table with the official client, goes on where it was after each cut, and prints the ids of the rows that came.

Usage: since.py URL TOKEN

The client sends no other keys than it knows: where a binding goes on is written into what it says when it joins again.
"""

import asyncio
import json
import sys

from realtime import AsyncRealtimeClient


def show(value):
    print(json.dumps(value), flush=True)


async def main():
    url, token = sys.argv[1:3]
    client = AsyncRealtimeClient(f"{url}/realtime/v1", token, timeout=120, max_retries=1000, initial_backoff=0.1)
    channel = client.channel("since", {"config": {}})

    def on_change(payload):
        binding = channel.join_push.payload["config"]["postgres_changes"][0]
        binding["since"] = payload["data"]["commit_timestamp"]
        show({"change": payload["data"]["record"]["id"]})

    channel.on_postgres_changes("INSERT", on_change, table="test", schema="public")
    channel.on_system(lambda payload: show({"system": payload.model_dump()}))
    await channel.subscribe(lambda status, error: show({"status": status.value, "error": str(error) if error else None}))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await client.close()


asyncio.run(main())
