"""Load on a running server: clients that ask without pause, and how long they wait.

    fisher-ld serve MODEL &
    python -m benchmarks.serve MODEL [--address http://127.0.0.1:8000] [--clients 50] [--seconds 60]

Each client asks `recommend` after likes drawn from the model's whole catalogue. Memory is that of the server's process,
at the begin and the end.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import psutil

from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError


def catalogue(model: Path) -> list[str]:
    """The texts of all items that a saved or exported model recommends."""
    data = DataPaths.around(model)
    file = model / "catalogue" / "items.parquet"
    if not file.is_file() and data:
        file = data.processed / "items.parquet"
    if not file.is_file():
        raise UserError(f"{file}: no such file; name the MODEL that is served, an export or one below data/")
    return pl.read_parquet(file, columns=["text"])["text"].to_list()


def client(address: str, until: float, seed: int, titles: list[str], waits: list[float], errors: list[str]) -> None:
    draw, place = random.Random(seed), urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    while time.perf_counter() < until:
        body = json.dumps({"history": draw.sample(titles, draw.randint(1, 10))})
        began = time.perf_counter()
        try:
            connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                errors.append(f"{response.status}: {text[:100]!r}")
        except (OSError, http.client.HTTPException) as error:
            errors.append(repr(error))
            connection.close()
        waits.append(time.perf_counter() - began)


def server_memory(port: int) -> float:
    """MiB of the process that listens."""
    listening = (c for c in psutil.net_connections("tcp") if c.status == "LISTEN")
    pid = next(c.pid for c in listening if getattr(c.laddr, "port", None) == port)
    return psutil.Process(pid).memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="the folder that is served")
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    port = urlsplit(options.address).port or 80
    titles = catalogue(options.model)
    for clients, seconds in ((1, 5), (options.clients, options.seconds)):
        waits: list[float] = []
        errors: list[str] = []
        memory, until = server_memory(port), time.perf_counter() + seconds
        work = [
            threading.Thread(target=client, args=(options.address, until, n, titles, waits, errors))
            for n in range(clients)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        p50, p95, p99 = 1000 * np.quantile(waits, [0.5, 0.95, 0.99])
        print(
            f"{clients} clients, {seconds:g} s: {len(waits)} answers, {len(waits) / seconds:.1f} a second, "
            f"p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms; {len(errors)} errors {errors[:1]}; "
            f"memory {memory:.0f} -> {server_memory(port):.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
