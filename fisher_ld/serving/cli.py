"""The command `fisher-ld`: saved models at work."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fisher_ld.core.errors import UserError, told
from fisher_ld.core.progress import say, silence_bars

MODEL = "data/movielens-100k/students/small/fisher-ld/0"
EXAMPLES = {
    "rank": f"""
  fisher-ld rank {MODEL} --history "Toy Story '95" --candidates "Heat '95" "Aladdin '92"
  fisher-ld rank {MODEL} < queries.jsonl      # {{"history": [...], "candidates": [...]}} a line""",
    "recommend": f"""
  fisher-ld recommend {MODEL} --history "Toy Story" Aladdin -k 5""",
    "score": f"""
  fisher-ld score {MODEL} queries.parquet --out scored.parquet""",
    "export": f"""
  fisher-ld export {MODEL} exported""",
    "serve": """
  fisher-ld serve exported                    # then open http://127.0.0.1:8000""",
}
CODES = """

exit codes: 0 done, 1 something to put right (said in one sentence) or a bug (with its traceback), 2 wrong usage,
130 interrupted
"""
ALIKE = 0.95  # of the pairs of candidates in the check of an export: below, 8 bits are warned of


def rank(options: argparse.Namespace) -> None:
    from fisher_ld.serving.predictor import load

    predictor = load(options.model, int8=not options.fp32)
    for where, query in _queries(options, ("history", "candidates")):
        with _named(where):
            ranking = predictor.rank(query["history"], query["candidates"])
        _write(query, {"scores": ranking.scores.tolist(), "order": ranking.order.tolist()})


def recommend(options: argparse.Namespace) -> None:
    from fisher_ld.serving.recommender import load_recommender

    recommender = load_recommender(options.model, int8=not options.fp32)
    for where, query in _queries(options, ("history",)):
        with _named(where):
            answer = recommender.recommend(query["history"], options.k, options.rerank)
        _write(query, {"items": [item._asdict() for item in answer.items], "unknown": answer.unknown})


def score(options: argparse.Namespace) -> None:
    from fisher_ld.serving.predictor import load
    from fisher_ld.serving.score_file import score_file

    predictor = load(options.model, int8=not options.fp32)
    rows = score_file(predictor, Path(options.model), options.file, options.out, options.fp32)
    print(f"{options.out}: {rows} rows")


def export(options: argparse.Namespace) -> None:
    from fisher_ld.serving.export import export as run
    from fisher_ld.serving.recommender import read_catalogue

    try:
        catalogue = read_catalogue(Path(options.model))
    except UserError as error:
        say(f"without a catalogue, so that it ranks and does not recommend: {error}")
        catalogue = None
    found = run(Path(options.model), options.out, catalogue)
    print(
        f"{options.out}: z is within {found.fp32:.1e} of PyTorch's in float32, within {found.int8:.1e} in 8 bits, "
        f"which keep the order of {found.order:.1%} of pairs of candidates; all on prompts of random tokens"
    )
    if found.order < ALIKE:
        say(f"8 bits change the order of many candidates: answer by float32 ({options.out} --fp32)")


def serve(options: argparse.Namespace) -> None:
    from fisher_ld.serving.predictor import load
    from fisher_ld.serving.recommender import Recommender, read_catalogue
    from fisher_ld.serving.server import serve as run

    catalogue = read_catalogue(Path(options.model))
    folders = {"student": options.model} | ({"teacher": options.teacher} if options.teacher else {})
    models = {name: load(folder, int8=not options.fp32) for name, folder in folders.items()}
    run(
        {name: Recommender(model, catalogue) for name, model in models.items()},
        options.host,
        options.port,
        options.open,
    )


@contextmanager
def _named(where: str) -> Iterator[None]:
    """What is wrong with a query says where it stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _queries(options: argparse.Namespace, keys: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The one of the options, else those of standard input, a JSON object a line, each with its line for errors. Raises
    UserError for a query without candidates, and with the number of a line that is none."""
    if options.history is not None or getattr(options, "candidates", None) is not None:
        if "candidates" in keys and not options.candidates:
            raise UserError("expected one or more candidates, got none: add --candidates TEXT ..")
        yield "", {name: getattr(options, name) or [] for name in keys}
        return
    if sys.stdin.isatty():
        say("reading queries from the terminal, a JSON object a line; end with Ctrl-D")
    for number, line in enumerate(_lines(), 1):
        if not line.strip():
            continue
        expected = f"line {number}: expected an object with {' and '.join(keys)}, lists of texts"
        try:
            query = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{expected}, got {line.strip()[:60]!r}: {error}") from None
        for name in keys:
            texts = query.get(name) if isinstance(query, dict) else None
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise UserError(f"{expected}, got {line.strip()[:60]!r}")
        if not query.get("candidates", True):
            raise UserError(f"line {number}: expected one or more candidates, got none")
        yield f"line {number}: ", query


def _lines() -> Iterator[str]:
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: expected UTF-8, got other bytes: {error}") from None


def _write(query: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """A line of JSON, with the query's `id` where it has one."""
    own = {"id": query["id"]} if "id" in query else {}
    line = json.dumps({**own, **answer}, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in line):  # half a letter, which an id may hold
        line = json.dumps({**own, **answer})
    print(line, flush=True)
    if unknown := answer.get("unknown"):
        say(f"no item has the title or text {unknown[0]!r}: read as it is")


def parser() -> argparse.ArgumentParser:
    form: Any = argparse.RawDescriptionHelpFormatter
    everything = "examples:" + "".join(EXAMPLES.values()) + CODES
    whole = argparse.ArgumentParser("fisher-ld", description=__doc__, epilog=everything, formatter_class=form)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Any, text: str) -> argparse.ArgumentParser:
        name, examples = run.__name__, "examples:" + EXAMPLES[run.__name__]
        made = commands.add_parser(name, help=text, description=text, epilog=examples, formatter_class=form)
        made.add_argument("model", metavar="MODEL", help="folder of a saved or exported model")
        if run is not export:
            made.add_argument("--fp32", action="store_true", help="an exported model in float32, not in 8 bits")
        made.set_defaults(run=run)
        return made

    liked: dict[str, Any] = {"nargs": "*", "metavar": "TEXT", "help": "what a user liked, oldest first"}
    ranks = command(rank, "scores and order of given candidates")
    ranks.add_argument("--history", **liked)
    ranks.add_argument("--candidates", nargs="+", metavar="TEXT", help="without it, queries are lines of JSON")
    recommends = command(recommend, "the best of a catalogue")
    recommends.add_argument("--history", **liked)
    recommends.add_argument("-k", type=_count, default=10, help="how many (default: %(default)s)")
    recommends.add_argument("--rerank", type=_count, default=100, help="candidates (default: %(default)s)")
    scores = command(score, "a Parquet file of queries, with scores; a killed run goes on when called again")
    scores.add_argument("file", type=Path, metavar="FILE.parquet", help="columns history, candidates: lists of texts")
    scores.add_argument("--out", type=Path, required=True, metavar="OUT.parquet")
    exports = command(export, "a folder for ONNX Runtime, transformers and vLLM, with its catalogue")
    exports.add_argument("out", type=Path, metavar="OUT")
    serves = command(serve, "answers over HTTP, with a page to try it")
    serves.add_argument("--teacher", metavar="FOLDER", help="a second model, which the page sets beside")
    serves.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    serves.add_argument("--open", action="store_true", help="opens the page in the browser, where there is a screen")
    serves.add_argument("--port", type=_port, default=8000, help="(default: %(default)s)")
    return whole


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    silence_bars()
    try:
        options.run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has enough
        sys.stderr.close()
        return 0
    except Exception as error:
        if not (sentence := told(error) or _misplaced(error)):
            raise
        say(f"fisher-ld: {sentence}")
        return 1
    return 0


def _misplaced(error: Exception) -> str | None:
    """What a person reads of a path that cannot be; None for another error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; name a place that can be read or written"
    return None


if __name__ == "__main__":
    sys.exit(main())
