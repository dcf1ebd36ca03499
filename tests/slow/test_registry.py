"""A student in MLflow's registry, as `mlflow models serve` answers with it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.models import Model

from fisher_ld.core.errors import UserError
from fisher_ld.run.registry import EXAMPLE, NEEDED, register
from fisher_ld.serving.predictor import load
from tests.evaluation.world import write_model
from tests.run.test_tracking import stage_run


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The store's address and the model's folder, after two registrations."""
    for name in os.environ:
        if name.startswith(("MLFLOW_", "DVC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "student", 2)
    with stage_run("report") as run:
        register(run, Path("student"), "films", {"test_ndcg_10": 0.3, "method": "logits"}, None)
        register(run, Path("student"), "films", {"test_ndcg_10": 0.4, "method": "fisher-ld"}, None)
        with pytest.raises(UserError, match="the best student is not there"):
            register(run, Path("none"), "films", {}, None)
    return run.uri, tmp_path / "student"


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def invoke(address, body):
    data = json.dumps(body).encode()
    try:
        with urlopen(Request(f"{address}/invocations", data, {"Content-Type": "application/json"})) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def test_mlflow_serves_what_was_registered(registered):
    uri, folder = registered
    versions = {v.version: v.tags for v in MlflowClient(uri, uri).search_model_versions("name='films'")}
    assert {v["method"] for v in versions.values()} == {"logits", "fisher-ld"}
    assert MlflowClient(uri, uri).get_model_version("films", "2").tags["test_ndcg_10"] == "0.4"
    port = free_port()
    command = [Path(sys.executable).with_name("mlflow"), "models", "serve", "-m", "models:/films/2"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    server = subprocess.Popen(command, env=env, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urlopen(f"{address}/ping")
                break
            except (URLError, ConnectionError):
                assert server.poll() is None
                time.sleep(0.5)
        status, answer = invoke(address, {"dataframe_records": [EXAMPLE]})
        expected = load(folder).rank(EXAMPLE["history"], EXAMPLE["candidates"])
        (found,) = answer["predictions"]
        assert status == 200 and found["order"] == expected.order.tolist()
        assert found["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-5)
        status, answer = invoke(address, {"dataframe_records": [{"history": "a", "candidates": ["b"]}]})
        assert status == 400 and "history" in answer["message"]
        status, answer = invoke(address, {"dataframe_records": [{"history": ["m1"] * 90, "candidates": ["b"]}]})
        assert status == 400 and "the model's context ends at 64" in answer["message"]
        logged = Path(download_artifacts("models:/films/2", tracking_uri=uri))
        signature = Model.load(str(logged)).signature
        assert signature.inputs.input_names() == ["history", "candidates"]
        assert signature.outputs.input_names() == ["scores", "order"]
        assert json.loads((logged / "input_example.json").read_text()) == EXAMPLE
        pins = (logged / "requirements.txt").read_text().split()
        assert {pin.split("==")[0] for pin in pins} == set(NEEDED) and not [pin for pin in pins if "+" in pin]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
