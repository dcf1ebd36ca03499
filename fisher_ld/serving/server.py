"""Saved models over HTTP, and the page to try them. One thread answers what needs a model, one request after the other:
a model takes all cores by itself."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import webbrowser
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import psutil
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from fisher_ld.core.errors import UserError
from fisher_ld.serving.recommender import Recommender

PAGE = Path(__file__).with_name("page.html")
LARGEST_BODY = 256 * 1024  # bytes of a request
SUGGESTIONS = 20
POLICY = "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'"

Text = Annotated[str, Field(min_length=1, max_length=4000)]  # more than max_tokens leaves
T = TypeVar("T")
History = Annotated[list[Text], Field(min_length=1, max_length=200)]  # oldest first


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    history: History


class RankAsked(Asked):
    candidates: Annotated[list[Text], Field(min_length=1, max_length=1000)]


class RecommendAsked(Asked):
    k: Annotated[int, Field(ge=1, le=100)] = 10
    rerank: Annotated[int, Field(ge=1, le=1000)] = 100


class ExplainAsked(Asked):
    candidate: Text
    model: str | None = None


def app(models: Mapping[str, Recommender], hosts: list[str]) -> FastAPI:
    """What answers. `models`: by name, the first answers where none is named; all over one catalogue. `hosts`: the
    names under which it may be called, so that no foreign page can call it by another."""
    served = FastAPI(title="Fisher-LD", docs_url=None, redoc_url=None)
    served.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    main = next(iter(models.values()))
    thread = ThreadPoolExecutor(1)

    async def alone(work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *given)

    @served.middleware("http")
    async def limits(request: Request, answer: Any) -> Any:
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return _refused(411, "expected a Content-Length")
            if int(length) > LARGEST_BODY:
                with suppress(ClientDisconnect):
                    async for _ in request.stream():  # a client that is still sending would not read the answer
                        pass
                return _refused(
                    413, f"expected at most {LARGEST_BODY} bytes, got {length}: send fewer or shorter texts"
                )
            kind = request.headers.get("content-type", "none").partition(";")[0].strip()
            if kind.lower() != "application/json":
                return _refused(415, f"expected Content-Type: application/json, got {kind}")
        response = await answer(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @served.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _refused(422, f"expected JSON: {first['ctx']['error']}")
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "the request"
        return _refused(422, f"{place}: {first['msg']}, got {str(first.get('input'))[:60]!r}")

    @served.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        asked = f"{request.method} {request.url.path}"
        said = {
            404: f"{asked}: no such address; docs/serving.md lists them",
            405: f"{asked}: expected {(error.headers or {}).get('Allow', 'another method')}",
            400: "expected JSON in UTF-8, not nested deeply",  # of FastAPI, which says this of a body alone
        }
        return JSONResponse({"error": said.get(error.status_code, error.detail)}, error.status_code, error.headers)

    @served.exception_handler(UserError)
    async def unfit(request: Request, error: UserError) -> JSONResponse:
        return _refused(422, str(error))

    @served.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @served.get("/health")
    def health() -> dict[str, Any]:
        return {"models": list(models), "items": len(main.texts)}

    @served.get("/items")
    def items(query: Annotated[str, Field(max_length=200)] = "") -> list[str]:
        """The most popular items whose text has all words of the query."""
        return main.find(query, SUGGESTIONS)

    @served.post("/rank")
    async def rank(asked: RankAsked) -> dict[str, Any]:
        ranking = await alone(main.predictor.rank, asked.history, asked.candidates)
        return {"scores": ranking.scores.tolist(), "order": ranking.order.tolist()}

    @served.post("/recommend")
    async def recommend(asked: RecommendAsked) -> dict[str, Any]:
        return _plain(await alone(main.recommend, asked.history, asked.k, asked.rerank))

    @served.post("/compare")
    async def compare(asked: RecommendAsked) -> dict[str, Any]:
        """Every model on the same candidates, and the first stage's own order."""
        found = await alone(main.first_stage, asked.history, max(asked.k, asked.rerank))
        answers = {name: await alone(model.ranked, found, asked.k) for name, model in models.items()}
        columns = [{"name": name, "ms": answer.model_ms, **_plain(answer)} for name, answer in answers.items()]
        first = main.described(found.candidates[: asked.k], -np.arange(min(asked.k, len(found.candidates))))
        columns.append({"name": "first stage", "ms": found.ms, "items": [item._asdict() for item in first]})
        return {"columns": columns, "unknown": found.unknown}

    @served.post("/explain")
    async def explain(asked: ExplainAsked) -> dict[str, Any]:
        """How much of z goes with each text of the history."""
        if asked.model is not None and asked.model not in models:
            raise UserError(f"model: expected one of {list(models)}, got {asked.model!r}")
        model = models[asked.model] if asked.model else main
        moved = await alone(model.explain, asked.history, asked.candidate)
        return {"history": asked.history, "moved": moved}

    return served


def _refused(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


def _plain(answer: Any) -> dict[str, Any]:
    return {**answer._asdict(), "items": [item._asdict() for item in answer.items]}


def _own_names() -> list[str]:
    """What other machines may call this one."""
    cards = psutil.net_if_addrs().values()
    return [
        socket.gethostname(),
        socket.getfqdn(),
        *(own.address for card in cards for own in card if own.family == socket.AF_INET),
    ]


def serve(models: Mapping[str, Recommender], host: str, port: int, show: bool = False) -> None:
    """Answers until interrupted; with `show` it first opens the page in the browser, where there is a screen. Raises
    UserError for a port that is taken, and for a host of IPv6."""
    if ":" in host:
        raise UserError(f"--host: expected an address of IPv4 or a name, got {host!r}")
    hosts = ["127.0.0.1", "localhost", *(_own_names() if host == "0.0.0.0" else [host])]
    config = uvicorn.Config(app(models, hosts), host, port, access_log=False, log_level="warning")
    try:
        with config.bind_socket() as bound:
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else every answer waits 40 ms for the client
            address = f"http://{host}:{port}"
            print(f"answering on {address}; Ctrl-C ends it", flush=True)
            if show and (sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}):
                bound.listen()  # the page waits until the server is there
                webbrowser.open(address)
            uvicorn.Server(config).run([bound])
    except SystemExit:  # uvicorn has said why
        raise UserError(f"port {port} of {host} cannot be had: choose another by --port") from None
