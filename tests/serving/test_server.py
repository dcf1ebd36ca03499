import json
import shutil
import socket
import subprocess
import threading
import time
import warnings
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
import uvicorn

from fisher_ld.core.errors import UserError
from fisher_ld.serving import server
from fisher_ld.serving.server import app, serve
from tests.evaluation.world import ITEMS
from tests.serving.browser import browse


@pytest.fixture(scope="module")
def address(recommender):
    """A server in a thread, with the student twice, once as the teacher."""
    config = uvicorn.Config(app({"student": recommender, "teacher": recommender}, ["127.0.0.1"]), port=0)
    running = uvicorn.Server(config)
    bound = config.bind_socket()
    thread = threading.Thread(target=running.run, args=([bound],), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)


def ask(address, body=None, **headers):
    """Status and answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(address, data, {"Content-Type": "application/json", **headers})) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, error.read().decode()


def test_rank_and_recommend_answer_as_the_library_does(address, recommender, liked):
    expected = recommender.predictor.rank(liked, ["m1", "m2"])
    status, answer = ask(f"{address}/rank", {"history": liked, "candidates": ["m1", "m2"]})
    assert status == 200
    assert answer == {"scores": pytest.approx(expected.scores.tolist()), "order": expected.order.tolist()}
    status, answer = ask(f"{address}/recommend", {"history": liked, "k": 3})
    assert [item["text"] for item in answer["items"]] == [i.text for i in recommender.recommend(liked, 3).items]
    assert answer["model_ms"] > 0 and ask(f"{address}/health")[1]["models"] == ["student", "teacher"]
    assert ask(f"{address}/items?query=m39") == (200, ["m39"])


def test_models_side_by_side_and_what_moved_a_candidate(address, recommender, liked):
    _, answer = ask(f"{address}/compare", {"history": [*liked, "unheard of"], "k": 4})
    assert [column["name"] for column in answer["columns"]] == ["student", "teacher", "first stage"]
    assert answer["columns"][0]["items"] == answer["columns"][1]["items"] and answer["unknown"] == ["unheard of"]
    assert all(len(column["items"]) == 4 and column["ms"] > 0 for column in answer["columns"])
    _, moved = ask(f"{address}/explain", {"history": liked, "candidate": "m3", "model": "teacher"})
    assert moved["moved"] == pytest.approx(recommender.explain(liked, "m3"), abs=1e-5)


def test_to_a_user_who_liked_everything_nothing_is_recommended(address):
    everything = {"history": [f"m{i}" for i in range(ITEMS)]}
    status, answer = ask(f"{address}/recommend", everything)
    assert status == 200 and answer["items"] == []
    status, answer = ask(f"{address}/compare", everything)
    assert status == 200 and [column["items"] for column in answer["columns"]] == [[], [], []]


LONG = [f"m{i % 40}" for i in range(10_000)]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"history": ["m1"], "candidates": LONG}, 422, "candidates: List should have at most 1000 items"),
        ({"history": [], "candidates": ["m1"]}, 422, "history: List should have at least 1 item"),
        ({"history": ["a" * 2**20], "candidates": ["m1"]}, 413, "expected at most 262144 bytes, got 1048"),
        ({"history": "m1", "candidates": ["m1"]}, 422, "history: Input should be a valid list, got 'm1'"),
        ({"history": ["m1"], "candidates": [1]}, 422, "candidates.0: Input should be a valid string, got '1'"),
        ({"history": ["m1"], "candidates": ["m1"], "k": 3}, 422, "k: Extra inputs are not permitted"),
        ({"history": ["m1 " * 90], "candidates": ["m1"]}, 422, "the model's context ends at 64"),
        ([], 422, "the request: Input should be a valid dictionary"),
        (b"{", 422, "expected JSON: "),
        (b'{"history": ["\xff"]}', 400, "expected JSON in UTF-8"),
        (b"[" * 100_000, 400, "not nested deeply"),
        (b'{"history": ["\\ud800"], "candidates": ["m1"]}', 422, "history.0: "),
    ],
)
def test_what_cannot_be_answered_is_said(address, body, status, said):
    found, text = ask(f"{address}/rank", body)
    assert found == status and list(json.loads(text)) == ["error"] and said in json.loads(text)["error"]


def test_a_body_that_is_not_said_to_be_json_is_refused_with_the_remedy(address):
    """As curl sends it unless told otherwise."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, said = ask(f"{address}/rank", {"history": ["m1"], "candidates": ["m2"]}, **form)
    assert status == 415 and "expected Content-Type: application/json, got application/x-www-form" in said
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert ask(f"{address}/rank", {"history": ["m1"], "candidates": ["m2"]}, **kind)[0] == 200


def test_other_addresses_and_methods_are_said(address):
    status, text = ask(f"{address}/nowhere")
    assert status == 404 and json.loads(text) == {"error": "GET /nowhere: no such address; docs/serving.md lists them"}
    status, text = ask(f"{address}/rank")
    assert status == 405 and json.loads(text) == {"error": "GET /rank: expected POST"}


def test_the_page_may_ask_no_other_address(address):
    with urlopen(address) as response:
        assert response.headers["Content-Security-Policy"].startswith("default-src 'self'; ")


def test_other_names_of_the_host_and_other_models_are_refused(address):
    assert ask(f"{address}/health", Host="evil.example")[0] == 400
    status, text = ask(f"{address}/explain", {"history": ["m1"], "candidate": "m2", "model": "other"})
    assert status == 422 and "expected one of ['student', 'teacher'], got 'other'" in text


def test_a_port_that_is_taken_is_said(address, recommender):
    with pytest.raises(UserError, match="choose another by --port"):
        serve({"student": recommender}, "127.0.0.1", int(address.rpartition(":")[2]))


def test_where_any_address_is_listened_at_this_machines_own_names_are_answered(recommender, monkeypatch):
    with pytest.raises(UserError, match="expected an address of IPv4 or a name, got '::1'"):
        serve({"student": recommender}, "::1", 0)
    asked = []
    monkeypatch.setattr(server, "app", lambda models, hosts: asked.extend(hosts) or app(models, hosts))
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: None)
    serve({"student": recommender}, "0.0.0.0", 0)
    assert {"localhost", "127.0.0.1", socket.gethostname()} <= {*asked} and "0.0.0.0" not in asked


@pytest.mark.parametrize("screen", [True, False])
def test_the_page_is_opened_where_it_was_asked_for_and_there_is_a_screen(recommender, monkeypatch, screen):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(server.sys, "platform", "linux")
    opened = []
    monkeypatch.setattr(server.webbrowser, "open", opened.append)
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: None)
    for show in (False, True):
        serve({"student": recommender}, "127.0.0.1", 0, show)
    assert opened == ["http://127.0.0.1:0"] * screen


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium", "/snap/bin/chromium")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        reason = "the page is not tested: no Chromium on this machine (apt-get install chromium)"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    return found


def test_the_page_shows_the_models_side_by_side(chromium, address, recommender, liked):
    page = f"{address}/?" + urlencode([("liked", text) for text in [*liked, "unheard of"]])
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    command = [chromium, *options, page]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    shown = [text.split("<")[0] for text in dom.split("<h2>")[1:]]
    assert shown == ["student", "teacher", "first stage"]
    best = recommender.recommend([*liked, "unheard of"], 1).items[0].text
    assert dom.split("<ol>")[1].split(">")[2].startswith(best)
    assert "read as it is: unheard of" in dom and "http://" not in dom.split("<script>")[0]


@pytest.mark.parametrize("width", [320, 1366])
def test_the_page_works_by_keyboard_alone_on_any_screen_and_asks_nobody_else(chromium, address, tmp_path, width):
    with browse(chromium, tmp_path, width) as tab:
        tab.call("Page.navigate", url=address)
        tab.until("document.readyState === 'complete' && !!document.getElementById('go')")
        for text in ("m1", "unheard of"):
            tab.tab_to("e.id === 'text'")
            tab.write(text)
            tab.press("Enter")
        assert tab.value("document.querySelectorAll('#liked li').length") == 2
        tab.tab_to("e.id === 'go'")
        tab.press("Enter")
        assert tab.until("document.querySelectorAll('#columns h2').length") == 3
        assert tab.value("[...document.querySelectorAll('.ms')].every(e => parseFloat(e.textContent) > 0)")
        tab.tab_to("e.matches('#columns ol button')")
        tab.press("Enter")
        moved = tab.until("document.querySelector('.why')?.textContent")
        assert "m1" in moved and "unheard of" in moved
        assert tab.value("document.documentElement.scrollWidth") <= width, "nothing to scroll to the right"
        assert tab.value("document.querySelector('#said').className") == ""
        asked = [url for url in tab.requests if not url.startswith("data:")]
    assert len(asked) >= 3 and all(url.startswith(address) for url in asked)
