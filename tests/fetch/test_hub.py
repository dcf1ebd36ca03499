import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json
from fisher_ld.fetch.source import Network, Source, fetch

COMMITS = ("1" * 40, "2" * 40)
WEIGHTS = b"weights" * 1000


class Hub(ThreadingHTTPServer):
    """A hub with the one model org/toy, whose branch main is at `head`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.head, self.served = COMMITS[0], []
        self.listed_sha256 = hashlib.sha256(WEIGHTS).hexdigest()
        self.files = {
            "config.json": b"{}",
            "model.safetensors": WEIGHTS,
            "tokenizer.json": b"{}",
            "pytorch_model.bin": b"pickle",
            "modeling_toy.py": b"code",
            "original/model.safetensors": b"other",
        }

    def tree(self):
        entries = [
            {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
            for n, b in self.files.items()
        ]
        for entry in entries:
            if entry["path"] == "model.safetensors":
                entry["size"] = len(WEIGHTS)
                entry["lfs"] = {"oid": self.listed_sha256, "size": len(WEIGHTS), "pointerSize": 100}
        return entries


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        if path.startswith("api/models/org/toy/tree/"):
            self.answer(200, json.dumps(self.server.tree()).encode(), {})
        elif path.startswith("api/models/org/toy"):
            revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
            self.answer_model({"main": self.server.head}.get(revision, revision))
        elif path.startswith("org/toy/resolve/"):
            commit, _, name = path.removeprefix("org/toy/resolve/").partition("/")
            body = self.server.files[name]
            if self.command == "GET":
                self.server.served.append(name)  # before the client has it
            self.answer(200, body, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer_model(self, commit):
        if commit not in COMMITS:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [
            {
                "rfilename": e["path"],
                "size": e["size"],
                "blobId": e["oid"],
                "lfs": e.get("lfs") and {**e["lfs"], "sha256": e["lfs"]["oid"]},
            }
            for e in self.server.tree()
        ]
        self.answer(200, json.dumps({"id": "org/toy", "sha": commit, "siblings": siblings}).encode(), {})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(serving):
    return serving(Hub())


@pytest.fixture
def get(hub, tmp_path):
    network = Network(hub_endpoint=f"http://127.0.0.1:{hub.server_port}")
    return lambda name: fetch(Source(f"hub:{name}"), tmp_path / "store", tmp_path / "lock.json", network)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_only_safetensors_json_and_tokenizer_are_taken(hub, get):
    folder = get("org/toy")
    assert names(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(hub.served) == names(folder)


def test_the_commit_of_the_first_use_stays(hub, get, tmp_path):
    folder = get("org/toy")
    assert read_json(tmp_path / "lock.json") == {"hub:org/toy": {"commit": COMMITS[0]}}
    hub.head = COMMITS[1]
    assert get("org/toy") == folder
    (tmp_path / "lock.json").unlink()
    assert get("org/toy").name == COMMITS[1]


def test_revision(hub, get):
    assert get(f"org/toy@{COMMITS[1]}").name == COMMITS[1]
    with pytest.raises(UserError, match="no such model at dev"):
        get("org/toy@dev")


def test_wrong_byte(hub, get, tmp_path):
    hub.files["model.safetensors"] = WEIGHTS[:-1] + b"!"
    with pytest.raises(UserError, match=f"model.safetensors: expected SHA-256 {hub.listed_sha256}, got"):
        get("org/toy")
    assert not list(tmp_path.rglob("model.safetensors"))
    assert not (tmp_path / "lock.json").exists()
    hub.files["model.safetensors"] = WEIGHTS
    assert (get("org/toy") / "model.safetensors").read_bytes() == WEIGHTS


def test_wrong_length_of_a_small_file(hub, get, tmp_path, monkeypatch):
    tree = hub.tree()
    tree[0]["size"] = 3
    monkeypatch.setattr(hub, "tree", lambda: tree)
    with pytest.raises(UserError, match=r"config.json: expected 3 bytes, got 2|Consistency check failed"):
        get("org/toy")
    assert not list(tmp_path.rglob("config.json"))


def test_weights_that_are_there_twice_are_fetched_once(hub, get, capsys):
    shards = {f"model-0000{number}-of-00002.safetensors": b"half" for number in (1, 2)}
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    hub.files["consolidated.safetensors"] = hub.files.pop("model.safetensors")
    hub.files |= {
        "model.fp16.safetensors": b"again",
        "model.safetensors.index.json": json.dumps(index).encode(),
    } | shards
    folder = get("org/toy")
    small = {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    assert set(names(folder)) == small | shards.keys() == set(hub.served)
    assert "consolidated.safetensors, model.fp16.safetensors left out" in capsys.readouterr().err
    del hub.files["model-00002-of-00002.safetensors"]
    with pytest.raises(UserError, match=r"expected the weights model-00002-of-00002.safetensors, got"):
        get("org/toy")


def test_what_is_refused_by_its_small_files_costs_no_weights(hub, tmp_path):
    def refuse(folder):
        assert names(folder) == ["config.json", "tokenizer.json"]
        raise UserError("no")

    network = Network(hub_endpoint=f"http://127.0.0.1:{hub.server_port}")
    with pytest.raises(UserError, match=r"^no$"):
        fetch(Source("hub:org/toy"), tmp_path / "store", tmp_path / "lock.json", network, refuse)
    assert "model.safetensors" not in hub.served
    assert not (tmp_path / "lock.json").exists()


def test_model_without_safetensors(hub, get):
    del hub.files["model.safetensors"]
    with pytest.raises(UserError, match="expected safetensors weights on the hub, got none"):
        get("org/toy")


@pytest.mark.parametrize("name, text", [("org/other", "no such model at main"), ("not a name!", "did not give it")])
def test_unknown_models(get, name, text):
    with pytest.raises(UserError, match=text):
        get(name)


def test_hub_out_of_reach(hub, get):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match=r"did not give it \(.*Connection refused"):
        get("org/toy")
