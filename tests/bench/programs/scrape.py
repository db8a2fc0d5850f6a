"""``scrape.py HOST:PORT CLIENTS REPORT``: so many connections at once, each scrapes /metrics again and again.

At SIGTERM the number of whole answers is written to REPORT. Invariant: it ends when its parent does.
"""

import asyncio
import os
import signal
import sys

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    answers = refused = 0
    parent = os.getppid()

    async def client() -> None:
        nonlocal answers, refused
        while os.getppid() == parent:
            try:
                reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=1 << 20)
                writer.write(REQUEST)
                whole = await reader.read(-1)
                writer.close()
                answers += whole.startswith(b"HTTP/1.1 200")
            except ConnectionError:
                refused += 1
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(client()) for _ in range(int(sys.argv[2]))]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    for task in tasks:
        task.cancel()
    with open(sys.argv[3], "w", encoding="ascii") as file:
        file.write(f"{answers} {refused}\n")


asyncio.run(main())
