import gzip
import hashlib
import os
import shutil
import time
import urllib.request
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fisher_ld.core.errors import Unavailable, UserError
from fisher_ld.core.files import read_json
from fisher_ld.fetch.https import sizes
from fisher_ld.fetch.source import Network, Source, fetch

BODY = bytes(range(256)) * 4096  # 1 MiB
FAST = Network(tries=3, wait=0.0, timeout=5.0)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Host(ThreadingHTTPServer):
    """Serves `body` at every address; `faults` are used up one a request, then it behaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.version, self.faults, self.ranges = BODY, '"1"', [], []

    def handle_error(self, request, client_address):
        """A client that hangs up on a refused answer is no error of the host."""

    def address(self, name="data.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        host = self.server
        fault = host.faults.pop(0) if host.faults else None
        host.ranges.append(self.headers["Range"])
        if isinstance(fault, int):
            self.send_error(fault)
            return
        start, total = 0, len(host.body)
        same = self.headers["If-Range"] in (None, host.version)
        if self.headers["Range"] and same and fault != "ignores range":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                self.send_error(416)
                return
            start += {"earlier range": -10, "later range": 10}.get(fault, 0)
        stated = total + {"longer": 1000, "shorter": -1000}.get(fault, 0)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{stated - 1}/{stated}")
        if fault != "no length":
            self.send_header("Content-Length", str(stated - start))
        if host.version:
            self.send_header("ETag", host.version)
        self.end_headers()
        end = {"cut": start + (total - start) // 2, "shorter": stated}.get(fault, total)
        self.wfile.write(host.body[start:end])


@pytest.fixture
def host(serving):
    return serving(Host())


@pytest.fixture
def get(tmp_path):
    """fetch() into a store, with a lock file, of the test's own."""

    def call(address, network=FAST, **known):
        return fetch(Source(address, **known), tmp_path / "store", tmp_path / "lock.json", network)

    return call


def leftovers(tmp_path):
    """Names in the store that are not of the store's own housekeeping."""
    return sorted(p.name for p in (tmp_path / "store").rglob("*") if p.is_file() and p.name != ".lock")


def test_cut_download_goes_on_where_it_stopped(host, get):
    host.faults = ["cut"]
    assert get(host.address()).read_bytes() == BODY
    assert host.ranges == [None, f"bytes={len(BODY) // 2}-"]


def test_cut_twice(host, get):
    host.faults = ["cut", "cut"]
    assert get(host.address()).read_bytes() == BODY
    assert host.ranges == [None, f"bytes={len(BODY) // 2}-", f"bytes={len(BODY) * 3 // 4}-"]


def test_next_run_goes_on_where_the_last_gave_up(host, get, tmp_path):
    host.faults = ["cut", "cut", "cut"]
    with pytest.raises(UserError, match=r"ended at 917,504 of 1,048,576 bytes \(3 tries\)"):
        get(host.address())
    assert leftovers(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    path = get(host.address())
    assert path.read_bytes() == BODY
    assert host.ranges[-1] == f"bytes={len(BODY) * 7 // 8}-"
    assert leftovers(tmp_path) == ["data.bin"]


def test_host_that_ignores_the_range(host, get):
    host.faults = ["cut", "ignores range"]
    assert get(host.address()).read_bytes() == BODY
    assert len(host.ranges) == 2


@pytest.mark.parametrize("fault", ["earlier range", "later range"])
def test_host_that_answers_another_range(host, get, fault):
    host.faults = ["cut", fault]
    assert get(host.address()).read_bytes() == BODY
    assert host.ranges[-1] is None


@pytest.mark.parametrize("new", [BODY[::-1], BODY[::-1] + b"longer", b"short"])
def test_versions_are_not_mixed(host, get, new):
    host.faults = ["cut"]
    with pytest.raises(UserError):
        get(host.address(), Network(tries=1))
    host.body, host.version = new, '"2"'
    assert get(host.address()).read_bytes() == new


def test_another_length_under_the_same_version(host, get):
    host.faults = ["cut"]
    with pytest.raises(UserError):
        get(host.address(), Network(tries=1))
    host.body = BODY[::-1] + b"longer"
    assert get(host.address()).read_bytes() == host.body


def test_complete_part_of_a_killed_run_needs_no_request(host, get):
    path = get(host.address())
    path.rename(path.with_name("data.bin.part"))
    assert get(host.address(), size=len(BODY)).read_bytes() == BODY
    assert len(host.ranges) == 1


def test_without_version_only_a_known_sum_lets_a_download_go_on(host, get):
    host.version, host.faults = None, ["cut"]
    assert get(host.address()).read_bytes() == BODY
    assert host.ranges == [None, None]
    host.faults = ["cut"]
    assert get(host.address("other"), sha256=sha256(BODY)).read_bytes() == BODY
    assert host.ranges[2:] == [None, f"bytes={len(BODY) // 2}-"]


def test_host_that_promises_too_much(host, get, tmp_path):
    host.faults = ["longer"] * 3
    with pytest.raises(UserError, match="1,048,576 of 1,049,576"):
        get(host.address())
    assert "data.bin" not in leftovers(tmp_path)


def test_host_that_states_another_length_than_known(host, get, tmp_path):
    host.faults = ["shorter"]
    with pytest.raises(UserError, match="expected a file of 1,048,576 bytes, but the server offers 1,047,576"):
        get(host.address(), size=len(BODY))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["data.gz", "data.zip"])
def test_host_that_cuts_an_archive_and_states_the_short_length(host, get, tmp_path, name):
    if name == "data.gz":
        host.body = gzip.compress(os.urandom(10_000))
    else:
        with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
            archive.writestr("member", os.urandom(10_000))
        host.body = (tmp_path / "made.zip").read_bytes()
    host.faults = ["shorter"]
    with pytest.raises(UserError, match="cut or damaged"):
        get(host.address(name))
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "lock.json").exists()
    assert get(host.address(name)).read_bytes() == host.body


def test_host_without_length(host, get, tmp_path):
    host.faults = ["no length", "no length"]
    with pytest.raises(UserError, match="does not say how long"):
        get(host.address())
    assert leftovers(tmp_path) == []
    assert get(host.address(), sha256=sha256(BODY)).read_bytes() == BODY


def test_wrong_byte(host, get, tmp_path):
    host.body = BODY[:-1] + b"!"
    with pytest.raises(UserError, match=f"expected SHA-256 {sha256(BODY)} .published., got {sha256(host.body)}"):
        get(host.address(), sha256=sha256(BODY), size=len(BODY))
    assert leftovers(tmp_path) == []
    host.body = BODY
    assert get(host.address(), sha256=sha256(BODY), size=len(BODY)).read_bytes() == BODY
    assert not (tmp_path / "lock.json").exists()


def test_first_use_is_recorded_and_checked_from_then_on(host, get, tmp_path):
    get(host.address())
    entry = {host.address(): {"sha256": sha256(BODY), "size": len(BODY)}}
    assert read_json(tmp_path / "lock.json") == entry
    shutil.rmtree(tmp_path / "store")
    host.body = BODY[:-1] + b"!"
    with pytest.raises(UserError, match=r"recorded in .*lock.json on first use.*delete its entry"):
        get(host.address())
    assert leftovers(tmp_path) == []
    assert read_json(tmp_path / "lock.json") == entry
    (tmp_path / "lock.json").unlink()
    assert get(host.address()).read_bytes() == host.body


def test_complete_download_is_not_fetched_again_but_a_damaged_one_is(host, get):
    path = get(host.address())
    assert get(host.address()) == path
    assert len(host.ranges) == 1
    path.write_bytes(BODY[:-1])
    assert get(host.address()).read_bytes() == BODY
    assert len(host.ranges) == 2


def test_equal_names_at_two_addresses(host, get):
    first = get(host.address("a/data.bin"))
    host.body = b"other"
    assert get(host.address("b/data.bin")).read_bytes() == b"other"
    assert first.read_bytes() == BODY


def test_temporary_failures_are_tried_again_within_bounds(host, get):
    host.faults = [503, 429]
    assert get(host.address()).read_bytes() == BODY
    host.faults = [503] * 9
    with pytest.raises(Unavailable, match=r"HTTP 503 .*3 tries"):
        get(host.address("other"))
    assert len(host.ranges) == 6


@pytest.mark.parametrize("status, text", [(404, "no such file"), (403, "HTTP 403")])
def test_refusals_are_not_tried_again(host, get, tmp_path, status, text):
    host.faults = [status] * 3
    with pytest.raises(Unavailable, match=text):
        get(host.address())
    assert len(host.ranges) == 1
    assert leftovers(tmp_path) == []


def test_https_must_not_lead_to_http(host, get, tmp_path, monkeypatch):
    redirected = urllib.request.urlopen(host.address())
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: redirected)
    with pytest.raises(UserError, match=r"redirected to http://127.0.0.1.*refused"):
        get("https://secure.example/data.bin")
    assert leftovers(tmp_path) == []


def test_empty_file(host, get, tmp_path):
    host.body = b""
    with pytest.raises(UserError, match="empty file"):
        get(host.address())
    assert leftovers(tmp_path) == []


def test_addresses_as_people_write_them(host, get):
    address = host.address("größe 1.csv?q=é")
    assert get(address).name == "größe 1.csv"
    assert get(address.replace("http", "HTTP")).read_bytes() == host.body
    with pytest.raises(UserError, match=r"http://\.x/x\.csv: expected an address"):
        get("http://.x/x.csv")


def test_refused_connection(host, get):
    address = host.address()
    host.shutdown()
    host.server_close()
    with pytest.raises(Unavailable, match=r"no answer from 127.0.0.1:\d+ .*Connection refused"):
        get(address)


def test_an_unknown_host_is_asked_once(get, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(Unavailable, match=r"unknown host nowhere.invalid\. Check the address and the network"):
        get("https://nowhere.invalid/data.bin")


def test_disk_too_small_for_the_download(host, get, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="needs 1,048,576 bytes, but only 1,000 are free"):
        get(host.address())
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_disk_that_runs_full(host, get, tmp_path):
    path = get(host.address())
    path.unlink()
    path.with_name("data.bin.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk full"):
        get(host.address())
    assert not path.exists()


@pytest.fixture
def wheels(tmp_path):
    """pip's options for a folder that holds the wheel toy 1.0 and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "toy-1.0.dist-info"
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/data.txt", "hello")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return Network(pip_options=("--no-index", "--find-links", str(folder))), folder / "toy-1.0-py3-none-any.whl"


def test_wheel(get, wheels, tmp_path):
    network, wheel = wheels
    path = get("package:toy==1.0", network, sha256=sha256(wheel.read_bytes()), size=wheel.stat().st_size)
    assert path.read_bytes() == wheel.read_bytes()
    assert leftovers(tmp_path) == [path.name]


def test_wheel_with_another_sum(get, wheels, tmp_path):
    with pytest.raises(UserError, match=f"expected SHA-256 {'0' * 64} .published., got"):
        get("package:toy==1.0", wheels[0], sha256="0" * 64)
    assert leftovers(tmp_path) == []


def test_wheel_that_the_index_lacks(get, wheels):
    with pytest.raises(UserError, match=r"toy==2.0: expected one wheel .*got 0(.|\n)*No matching distribution"):
        get("package:toy==2.0", wheels[0])


def test_source_packages_are_refused(get, wheels, tmp_path):
    wheels[1].unlink()
    (tmp_path / "toy-1.0").mkdir()
    (tmp_path / "toy-1.0" / "setup.py").touch()
    shutil.make_archive(str(wheels[1].parent / "toy-1.0"), "gztar", tmp_path, "toy-1.0")
    with pytest.raises(UserError, match="No matching distribution found for toy"):
        get("package:toy==1.0", wheels[0])


def test_local_paths_are_used_where_they_are(get, tmp_path, monkeypatch):
    (tmp_path / "my table.csv").write_text("a,b")
    assert get(str(tmp_path / "my table.csv")) == tmp_path / "my table.csv"
    assert get((tmp_path / "my table.csv").as_uri()) == tmp_path / "my table.csv"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # as in `dvc exp run --temp`, whose folder lacks what git ignores
    assert get("my table.csv") == tmp_path / "my table.csv"
    assert not (tmp_path / "lock.json").exists()


@pytest.mark.parametrize(
    "address, text",
    [("missing.csv", "no such file"), ("empty.csv", "empty file"), ("ftp://host/data.csv", "got ftp://")],
)
def test_local_paths_that_cannot_be_used(get, tmp_path, monkeypatch, address, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match=text):
        get(address)


def test_what_vanishes_while_it_is_counted_counts_nothing(tmp_path, monkeypatch):
    """pip unpacks into a folder and takes it away."""
    (tmp_path / "kept").write_bytes(b"123")
    (tmp_path / "unpacked").mkdir()
    listed = os.scandir

    def scandir(folder):
        if Path(folder) == tmp_path / "unpacked":
            (tmp_path / "unpacked").rmdir()
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert sizes(tmp_path) == [0, 3]
