"""The load generator."""

import socket
import threading
import time

import pytest

from benchmarks.serve import catalogue, client
from fisher_ld.core.errors import UserError
from tests.evaluation.world import ITEMS
from tests.serving.conftest import student


def test_likes_are_drawn_from_the_whole_catalogue(data, recommender, tmp_path):
    assert sorted(catalogue(student(data))) == sorted(f"m{i}" for i in range(ITEMS))
    recommender.catalogue.write(tmp_path / "exported" / "catalogue")
    assert sorted(catalogue(tmp_path / "exported")) == sorted(f"m{i}" for i in range(ITEMS))
    with pytest.raises(UserError, match="name the MODEL that is served"):
        catalogue(tmp_path)


def test_an_answer_that_is_no_http_is_an_error_that_is_counted():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"nonsense\r\n\r\n")
            listening.close()

        threading.Thread(target=answer, daemon=True).start()
        waits, errors = [], []
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        client(address, time.perf_counter() + 0.2, 0, [f"m{i}" for i in range(20)], waits, errors)
    assert "BadStatusLine" in errors[0] and len(errors) == len(waits)
