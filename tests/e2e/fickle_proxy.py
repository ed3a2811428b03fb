"""Runs in a pod, see fickle_s3.py: passes on port 9000, is told on port 9001 what to do with it."""

import asyncio
from asyncio import StreamReader, StreamWriter

REFUSAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
mode = "works"
open_ones: set[StreamWriter] = set()
turned_away = 0


async def copy(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    writer.transport.abort()


async def refuse(reader: StreamReader, writer: StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(REFUSAL)}\r\n\r\n".encode() + REFUSAL)
    await writer.drain()
    # Closing before all of an upload is read would reset the connection and lose the answer.
    while await reader.read(65536):
        pass


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    global turned_away
    turned_away += mode != "works"
    open_ones.add(writer)
    try:
        if mode == "refuses":
            await refuse(reader, writer)
        elif mode == "works":
            far_reader, far_writer = await asyncio.open_connection("s3", 9000)
            open_ones.add(far_writer)
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
            open_ones.discard(far_writer)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        open_ones.discard(writer)
        writer.transport.abort()


async def control(reader: StreamReader, writer: StreamWriter) -> None:
    global mode, turned_away
    request = await reader.readuntil(b"\r\n\r\n")
    answer = str(turned_away).encode()
    mode, turned_away = request.split()[1].decode().strip("/"), 0
    for one in list(open_ones):
        one.transport.abort()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ")
    writer.write(str(len(answer)).encode() + b"\r\n\r\n" + answer)
    await writer.drain()
    writer.close()


async def main() -> None:
    await asyncio.start_server(control, port=9001)
    async with await asyncio.start_server(serve, port=9000) as server:
        await server.serve_forever()


asyncio.run(main())
