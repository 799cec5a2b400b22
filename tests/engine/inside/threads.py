"""Python's ways to do several things at once; fails loudly."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time


def double(number: int) -> int:
    return number * 2


async def talk() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"abc\n")
    assert await reader.readline() == b"ABC\n"
    server.close()
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert (await process.communicate(b"through a pipe"))[0] == b"through a pipe"


def main() -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda n=n: found.append(double(n))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == list(range(0, 40, 2))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(double, range(9))) == list(range(0, 18, 2))
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(double, [1, 2, 3]) == [2, 4, 6], method
    shared = multiprocessing.Value("i", 5)
    with shared.get_lock():
        shared.value += 1
    queue: multiprocessing.Queue[int] = multiprocessing.Queue()
    queue.put(7)
    assert queue.get(timeout=10) == 7
    asyncio.run(talk())
    assert subprocess.run(["sh", "-c", "exit 3"], check=False, start_new_session=True).returncode == 3
    left, right = socket.socketpair()
    left.sendall(b"x")
    assert right.recv(1) == b"x"
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(os.path.join(folder, "db"))
        database.execute("pragma journal_mode=wal")
        with database:
            database.execute("create table t (n integer)")
            database.executemany("insert into t values (?)", [(n,) for n in range(100)])
        assert database.execute("select sum(n) from t").fetchone() == (4950,)
        database.close()
        shutil.copytree(folder, folder + ".copy")
        shutil.rmtree(folder + ".copy")
        os.mkfifo(os.path.join(folder, "fifo"))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(folder, "socket"))
    assert socket.getaddrinfo("127.0.0.1", 80) and socket.if_nameindex()
    time.sleep(0.001)
    os.sched_yield()
    assert len(os.sched_getaffinity(0)) and len(os.urandom(8)) == 8
    print("fine")


if __name__ == "__main__":
    main()
