"""The command `fisher-ld`: saved models at work."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import silence_bars

MODEL = "data/movielens-100k/students/small/fisher-ld/0"
EXAMPLES = f"""examples:
  fisher-ld rank {MODEL} --history "Toy Story" Aladdin --candidates Heat "The Lion King"
  fisher-ld rank {MODEL} < queries.jsonl      # {{"history": [...], "candidates": [...]}} a line
  fisher-ld recommend {MODEL} --history "Toy Story" Aladdin -k 5
  fisher-ld score {MODEL} queries.parquet --out scored.parquet
  fisher-ld export {MODEL} exported
  fisher-ld serve exported                    # then open http://127.0.0.1:8000

exit codes: 0 done, 1 something to put right (said in one sentence), 2 wrong usage, 130 interrupted
"""


def rank(options: argparse.Namespace) -> None:
    from fisher_ld.serving.predictor import load

    predictor = load(options.model)
    for query in _queries(options, ("history", "candidates")):
        ranking = predictor.rank(query["history"], query["candidates"])
        _write(query, {"scores": ranking.scores.tolist(), "order": ranking.order.tolist()})


def recommend(options: argparse.Namespace) -> None:
    from fisher_ld.serving.recommender import load_recommender

    recommender = load_recommender(options.model)
    for query in _queries(options, ("history",)):
        answer = recommender.recommend(query["history"], options.k, options.rerank)
        _write(query, {"items": [item._asdict() for item in answer.items], "unknown": answer.unknown})


def score(options: argparse.Namespace) -> None:
    from fisher_ld.serving.predictor import load
    from fisher_ld.serving.score_file import score_file

    rows = score_file(load(options.model), Path(options.model), options.file, options.out)
    print(f"{options.out}: {rows} rows")


def export(options: argparse.Namespace) -> None:
    from fisher_ld.serving.export import export as run
    from fisher_ld.serving.recommender import read_catalogue

    try:
        catalogue = read_catalogue(Path(options.model))
    except UserError as error:
        print(f"without a catalogue, so that it ranks and does not recommend: {error}", file=sys.stderr)
        catalogue = None
    found = run(Path(options.model), options.out, catalogue)
    print(f"{options.out}: z is within {found.fp32:.1e} of PyTorch's in float32, within {found.int8:.1e} in 8 bits")


def serve(options: argparse.Namespace) -> None:
    from fisher_ld.serving.predictor import load
    from fisher_ld.serving.recommender import Recommender, read_catalogue
    from fisher_ld.serving.server import serve as run

    catalogue = read_catalogue(Path(options.model))
    folders = {"student": options.model} | ({"teacher": options.teacher} if options.teacher else {})
    run({name: Recommender(load(f), catalogue) for name, f in folders.items()}, options.host, options.port)


def _queries(options: argparse.Namespace, keys: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The one of the options, else those of standard input, a JSON object a line. Raises UserError with the number of
    a line that is none."""
    if options.history is not None or getattr(options, "candidates", None) is not None:
        yield {name: getattr(options, name) or [] for name in keys}
        return
    if sys.stdin.isatty():
        print("reading queries from the terminal, a JSON object a line; end with Ctrl-D", file=sys.stderr)
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        expected = f"line {number}: expected an object with {' and '.join(keys)}, lists of texts"
        try:
            query = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{expected}, got {line.strip()[:60]!r}: {error}") from None
        for name in keys:
            texts = query.get(name) if isinstance(query, dict) else None
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise UserError(f"{expected}, got {line.strip()[:60]!r}")
        yield query


def _write(query: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """A line of JSON, with the query's `id` where it has one."""
    own = {"id": query["id"]} if "id" in query else {}
    print(json.dumps({**own, **answer}, ensure_ascii=False), flush=True)
    if unknown := answer.get("unknown"):
        print(f"no item has the title or text {unknown[0]!r}: read as it is", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        "fisher-ld", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(run.__name__, help=text, description=text)
        made.add_argument("model", metavar="MODEL", help="folder of a saved or exported model")
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
    serves.add_argument("--port", type=_count, default=8000, help="(default: %(default)s)")
    return whole


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    silence_bars()
    try:
        options.run(options)
    except (UserError, ValueError) as error:
        print(f"fisher-ld: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has enough
        sys.stderr.close()
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
