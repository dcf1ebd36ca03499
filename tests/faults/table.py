"""The fault list: what goes wrong around a run, one fault a row, and what must come of it. Nothing is lost, nothing is
silent, nothing ends in a traceback (`World.run` looks for one).

A row whose name begins with a number is of a folder of cases that once failed. Of each further kind there are three at
most. `slow`: by `make faults` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tests.faults import checks, tables
from tests.faults.tables import MARKUP
from tests.faults.world import World


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    injected: str
    must: str
    test: Callable[[World], object]
    slow: bool = False


def read(name: str, injected: str, texts: Mapping[str, str | None], said: str = "") -> Row:
    """Of a folder with tables: read, with these texts of items, and this said (a pattern)."""
    must = f"read{f', and said: {said}' if said else ''}"
    return Row(name, "table", injected, must, lambda world: tables.check_read(world.place(), name, texts, said))


def turned_away(name: str, injected: str, said: str) -> Row:
    """Of a folder with tables: refused with this sentence (a pattern)."""
    test = lambda world: tables.check_refused(world.place(), name, said)  # noqa: E731
    return Row(name, "table", injected, f"refused: {said}", test)


def ordered(name: str, injected: str) -> Row:
    test = lambda world: tables.check_order(world.place(), name)  # noqa: E731
    return Row(name, "table", injected, "histories in order", test)


ALL = {"1": "Title 1", "2": "Title 2", "40": "Title 40"}
CAFE = {"3": "Café", "40": "Title 40"}
BOOKS = {"1": "Title 1 Books, Fiction"}
NONE_LOST = "0.0% of the interactions"
ONE_USER = "one test user, of whom no interval can be told"

TABLES = [
    read("05a-title-binary", "titles as bytes in Parquet", ALL, NONE_LOST),
    read("05b-ids-binary", "ids as bytes in Parquet", ALL, NONE_LOST),
    read("06a-float-ids", "ids as floats on one side", ALL, NONE_LOST),
    read("06b-half-leading-zeros", "zeros before half of the ids", {"41": "Title 41"},
         "warning: 50.0% of the interactions .* such as '001'"),
    read("06f-half-float", "half of the ids as floats", ALL, NONE_LOST),
    turned_away("07a-nan-json", "NaN for a user", "20 of 240 rows .* missing user id: 20"),
    turned_away("07b-null-words", "NULL for a user", "missing user id: 20 .* for example 'NULL,1,5,1577836800'"),
    read("08a-iso", "times as ISO dates with hours", ALL, "time as dates"),
    read("08c-date", "times as ISO dates", ALL, "time as dates"),
    read("08d-millis", "times in milliseconds", ALL, "time in milliseconds since 1970"),
    turned_away("08f-zero", "times of 0", r"no time \(0\): 4 \(first in row 2\); for example 'u00,1,5,0'"),
    read("08g-before-1970", "times before 1970", ALL, "time in seconds since 1970"),
    read("08x-limit-raised", "dates, and no limit of rejected rows", ALL, "time as dates"),
    read("09a-semicolon", "semicolons", ALL, "interactions.csv: read as utf-8, semicolon-separated"),
    read("09b-tab", "tabs in .csv", ALL, "items.csv: read as utf-8, tab-separated"),
    read("09d-items-semicolon", "semicolons in one file", ALL, "items.csv: read as utf-8, semicolon-separated"),
    read("09e-tsv", "tabs in .tsv", ALL, "items.tsv: read as utf-8, tab-separated"),
    read("10a-python-list", "categories as a list of Python", BOOKS),
    read("10b-json-list", "categories as a list of JSON", BOOKS),
    read("10c-comma", "categories between commas", BOOKS, "a comma stands between the categories"),
    read("10d-semicolon", "categories between semicolons", BOOKS, "a semicolon stands between the categories"),
    read("10i-jsonl-dicts", "categories as objects", BOOKS),
    read("10j-jsonl-numbers", "categories as numbers", {"1": "Title 1 1, 2"}),
    read("11-markup", "tags and entities in titles", {str(i): title for i, title in enumerate(MARKUP, 1)}),
    turned_away("12a-one-test-user", "one test user", ONE_USER),
    turned_away("12b-fold-of-5-users", "5 users in 5 folds", ONE_USER),
    turned_away("12d-fold-of-4-users", "4 users in 5 folds", "fold 4 has no user: 4 users in 5 folds"),
    read("18a-scale-1-10", "ratings up to 10", ALL, "warning: ratings reach 10, and positive_rating is 4"),
    read("18b-zero-is-none", "0 for no rating", ALL, "warning: 62% of the ratings are 0"),
    read("18e-minus1-is-none", "-1 for no rating", ALL, "warning: 27% of the ratings are -1"),
    read("19a-cp1252", "another encoding", CAFE, "items.csv: read as cp1252"),
    read("19b-utf16", "UTF-16", CAFE, "items.csv: read as utf-16"),
    read("19c-cr-items", "line ends of old Macs", CAFE),
    read("19g-cp1252-1-of-2000", "one odd byte", CAFE, "items.csv: read as cp1252"),
    read("20a-backslash-quote", "quotes after a backslash", {"3": 'He said "hi", ok'}, "quotes after a backslash"),
    Row("20e-long-field", "table", "a field of 131,100 characters", "read, cut and counted",
        lambda world: tables.check_long_field(world.place(), "20e-long-field")),
    read("21a-untitled-first", "an item's first row without title", {"7": "Emma"}, "1 items have several rows"),
    read("21d-row-per-category", "a row a category", {"1": "Title 1 Books"}, "warning: 40 items have several rows"),
    read("22a-jsonl-true", "true for a rating", ALL, "ratings: 0: 60, 1: 180"),
    read("22b-csv-True", "True for a rating", ALL, "ratings: 0: 60, 1: 180"),
    read("27-special-token", "a special token in a title", {"3": "Ad<|im_end|>mission"}),
    read("28-long-title", "a title of 3000 words", ALL, "1 texts are cut at 128 tokens .* item '3' had [0-9]{5}"),
    read("29-items-lacking", "few rows of items", {"1": "Title 1"},
         "warning: 81.5% of the interactions name an item without a row"),
    ordered("35-own-subsecond", "times within a second, newest first"),
    ordered("37-own-order-19-digits", "an order of 19 digits"),
    Row("38-own-bot", "table", "a user of nearly all items", "refused with advice that works",
        lambda world: tables.check_bot(world.place(), "38-own-bot")),
    read("40-own-same-text", "items with one text", {"2": "Title 1"}, "warning: 40 items share their text"),
    turned_away("41-own-duplicate-header", "a column twice", "expected each column once, got title twice"),
    turned_away("42-own-json-key-typo", "a field's name mistyped", "no row has a field title; there are item_id, name"),
    turned_away("43-own-json-array", "a JSON array", "expected one JSON object a line, got a JSON array"),
    read("numpy-categories", "categories as NumPy prints a list", BOOKS),
    read("empty-texts", "item_text of a field that half of the items lack", {"1": "Brand 1", "2": None},
         "warning: item_text '{brand}' gives 20 items an empty text, such as '2', '4', '6'"),
    read("days-in-eight-digits", "times as 20200131", ALL, "time as dates such as 20200131"),
]  # fmt: skip

SETTINGS = [
    Row("01-dvc-set-grammar", "quoting", "values of -S without the quotes that they need",
        "refused, with the quotes, and params.yaml unchanged", checks.unquoted, slow=True),
    Row("quotes-arrive", "quoting", "-S with the quotes that are shown", "the value, blanks and braces too",
        checks.quoted, slow=True),
    Row("one-answer-lost-its-blank", "quoting", "`dvc exp run -S 'teacher.answers.yes= Yes'`", "refused, with quotes",
        lambda world: world.refused(world.project({"teacher": {"answers": {"yes": "Yes"}}}), "check_params",
                                    """a blank before both .*'teacher.answers.yes=" yes"'""")),
    Row("number-for-a-text", "quoting", "tracking.experiment=12", "refused, with quotes",
        lambda world: world.refused(world.project({"tracking": {"experiment": 12}}), "check_params",
                                    """a text, got 12; quote it: "12", and in -S 'tracking.experiment="12"'""")),
    Row("48-own-seed", "refused value", "seed: 2**31", "refused, with the largest, before any stage",
        lambda world: world.refused(world.project({"seed": 2**31}), "check_params",
                                    "seed: expected at most 2147483647")),
    Row("value-stays", "refused value", "fisher.kind: true, as `-S` leaves it in params.yaml", "how to take it back",
        lambda world: world.refused(world.project({"fisher": {"kind": True}}), "check_params",
                                    "'label' or 'list', got True\n.*git restore params.yaml")),
    Row("unknown-key", "refused value", "a mistyped key", "the nearest, and how to take it back",
        lambda world: world.refused(world.project({"fisher": {"betta": 1}}), "download tiny",
                                    "did you mean beta[?]\n.*git restore params.yaml")),
    Row("empty-params", "refused value", "params.yaml cut to nothing", "refused, with the command that restores it",
        checks.empty_params),
    Row("13-omp-num-threads", "threads", "OMP_NUM_THREADS=4,2", "the first number is taken", checks.nested_threads),
    Row("no-threads", "threads", "OMP_NUM_THREADS=0", "refused before the first stage",
        lambda world: world.refused(world.project({"cluster": {"threads": None}}), "download tiny", OMP_NUM_THREADS="0",
                                    says="OMP_NUM_THREADS: expected a number from 1 on, got '0'; unset it")),
    Row("threads-in-words", "threads", "OMP_NUM_THREADS=all", "refused before the first stage",
        lambda world: world.refused(world.project({"cluster": {"threads": None}}), "check_params",
                                    OMP_NUM_THREADS="all", says="got 'all'; unset it, or set cluster.threads")),
]  # fmt: skip

PLACES = [
    Row("blanks-and-umlauts", "path", "a folder named größe zwei ü", "the same results", checks.path("größe zwei ü")),
    Row("signs-of-addresses", "path", "a folder named 100%25 ?#'&", "the same results, and the store within it",
        checks.path("100%25 ?#'&", "download_teacher", "adapt_teacher tiny 0"), slow=True),
    Row("long-path", "path", "folders of 1000 letters", "the same results", checks.path("/".join(["x" * 200] * 5))),
    Row("stage-from-above", "monorepo", "a stage started in the folder above", "said where it must start",
        checks.from_above),
    Row("subfolder", "monorepo", "a project in a subfolder of a repository", "`dvc repro` and `cells` work",
        checks.subfolder, slow=True),
    Row("temporary-in-subfolder", "monorepo", "`dvc exp run --temp` there", "works, and its store is the project's",
        checks.temporary_in_subfolder, slow=True),
    Row("23-data-symlink", "link", "data/ is a link", "refused before the first stage, with `dvc cache dir`",
        checks.link("data")),
    Row("data-set-is-a-link", "link", "data/DATA is a link", "refused, with `dvc cache dir`", checks.link("data/tiny")),
    Row("metrics-is-a-link", "link", "metrics/ is a link to nothing", "refused, with `dvc cache dir`",
        checks.link("metrics", whole=False)),
    Row("work-is-a-link", "link", "work/ is a link", "works", checks.work_link),
    Row("32-no-git", "git", "the files without a repository", "`make repro` says it before all set-up", checks.no_git),
    Row("cells-without-git", "git", "the same, by `cells`", "one sentence, with the remedy", checks.cells_without_git,
        slow=True),
    Row("no-identity", "git", "git without user.name, and -S", "refused before the work", checks.no_identity),
    Row("no-git-program", "git", "no git in PATH", "stages run", checks.no_git_program, slow=True),
]  # fmt: skip

FILES = [
    Row("24-no-flock", "locks", "a file system without flock (ENOSYS)", "refused, with the folder and the options",
        checks.no_flock),
    Row("no-lock-service", "locks", "NFS without its lock service (ENOLCK)", "the same", checks.no_lock_service),
    Row("half-a-lock-file", "locks", "a lock file of which a kill left half", "works", checks.half_lock),
    Row("held-lock", "locks", "another process runs the cell", "refused, with its number", checks.held_lock),
    Row("47-own-read-only", "permissions", "data, metrics, work, source, params.yaml without rights, one by one",
        "one sentence each, with the path", checks.read_only),
    Row("read-only-mount", "permissions", "a read-only file system", "one sentence, with the path",
        checks.read_only_mount),
    Row("read-only-cache", "permissions", "DVC's cache without rights", "refused before the first stage",
        checks.read_only_cache, slow=True),
    Row("read-only-store", "permissions", "mlflow.db without rights", "refused before the work, with the remedy",
        checks.read_only_store, slow=True),
]  # fmt: skip

STORES = [
    Row("30-relative-file-store", "store", "MLFLOW_TRACKING_URI=./mlruns", "refused before the first stage",
        checks.store("./mlruns", "MLflow store ./mlruns: expected sqlite or a server. Set .* sqlite:///FILE")),
    Row("store-without-slashes", "store", "MLFLOW_TRACKING_URI=sqlite:mlflow.db", "refused before the first stage",
        checks.store("sqlite:mlflow.db", "MLflow store sqlite:mlflow.db: expected sqlite or a server")),
    Row("store-without-driver", "store", "MLFLOW_TRACKING_URI=postgresql://u:secret@127.0.0.1:1/x",
        "refused before the work, without the password",
        checks.store("postgresql://u:secret@127.0.0.1:1/x", r"postgresql://\*\*\*@127.* cannot be opened \(No module",
                     "adapt_teacher tiny 0"), slow=True),
    Row("dead-server", "store", "MLFLOW_TRACKING_URI=http://u:secret@127.0.0.1:9", "the same",
        checks.store("http://u:secret@127.0.0.1:9", r"http://\*\*\*@127.* cannot be opened", "adapt_teacher tiny 0"),
        slow=True),
    Row("25-shared-sqlite", "shared store", "two projects create one sqlite file", "one waits for the other",
        checks.shared_sqlite, slow=True),
    Row("no-database", "shared store", "a file that is no database", "refused before the work, with the remedy",
        checks.no_database, slow=True),
    Row("busy-database", "shared store", "another program holds the database", "waits, or refuses with the remedy",
        checks.busy_database, slow=True),
]  # fmt: skip

ENDS = [
    Row("full-at-every-write", "full disk", "no space, at each write of each stage, of the report's at every sixth",
        "one sentence, nothing half-written, and the same results afterwards", checks.full_at_every_write, slow=True),
    Row("full-file-system", "full disk", "a file system that runs full, under libraries that write by themselves",
        "the same", checks.full_file_system, slow=True),
    Row("killed-with-data", "kill -9", "in each stage of the data, half-way and at the last write",
        "the same results after the same command", checks.killed(0, 6), slow=True),
    Row("killed-with-the-teacher", "kill -9", "in each stage of the teacher, likewise", "the same",
        checks.killed(6, 15), slow=True),
    Row("killed-with-students", "kill -9", "in each stage of students and results, likewise", "the same",
        checks.killed(15, None), slow=True),
    Row("clock-goes-back", "clock", "an hour back, while a stage runs", "the same results, and no negative seconds",
        checks.clock_goes_back),
    Row("files-of-the-future", "clock", "a teacher's checkpoint is of tomorrow, and the clock goes back in training",
        "it is resumed, to the same", checks.files_of_the_future, slow=True),
    Row("store-of-the-future", "clock", "runs in the store are of tomorrow", "the same parent takes the next",
        checks.store_of_the_future, slow=True),
    Row("two-test-users", "few users", "two test users", "every stage to the report", checks.two_users, slow=True),
    Row("one-user", "few users", "one user", "refused, with the remedy", checks.one_user),
    Row("fewer-windows-than-asked", "few users", "20 windows, of which 1000 are to be labelled", "works, and warns",
        checks.few_windows),
]  # fmt: skip

CONFIG, TOKENIZER = partial(checks.keys, "config.json"), partial(checks.keys, "tokenizer_config.json")
FOREIGN = CONFIG(model_type="xyz", auto_map={"AutoConfig": "configuration_xyz.Xyz"})
QUANTISED = CONFIG(quantization_config={"quant_method": "bitsandbytes"})
MULTIMODAL = CONFIG(model_type="gemma3", text_config={}, vision_config={})

TEACHERS = [
    Row("02-list-eos", "teacher", "several tokens for the end of a text", "the first of them pads",
        checks.mended_teacher("", CONFIG(eos_token_id=[0, 5], pad_token_id=None)), slow=True),
    Row("03-no-pad-token", "teacher", "a tokenizer without a token for padding", "given one, and said",
        checks.mended_teacher("no padding token; '<end>' is taken", TOKENIZER(pad_token=None)), slow=True),
    Row("04-token-beyond-vocabulary", "teacher", "a token for which the embedding has no row", "taken away, and said",
        checks.mended_teacher(r"\[PAD\] taken from the tokenizer", checks.one_token_more), slow=True),
    Row("14-remote-code", "teacher", "a model that needs code of its own", "refused without a question",
        checks.refused_teacher("transformers knows, got 'xyz'", FOREIGN), slow=True),
    Row("15-quantised", "teacher", "a quantised model", "refused, with the model to take",
        checks.refused_teacher("by bitsandbytes .*the model that they were made from", QUANTISED), slow=True),
    Row("16-multimodal", "teacher", "a multimodal model", "refused, with the model to take",
        checks.refused_teacher("got the multimodal gemma3: take the text-only model", MULTIMODAL), slow=True),
    Row("17-weights-twice", "teacher", "weights in two forms", "taken once, and said",
        checks.mended_teacher("consolidated.safetensors left out", checks.more_weights), slow=True),
    Row("26-sentencepiece", "teacher", "answers with a blank, for sentence pieces",
        "refused with those that work", checks.sentence_pieces, slow=True),
    Row("weights-cut-short", "teacher", "a copy of a model that was cut short", "refused by the download",
        checks.refused_teacher("model.safetensors is cut or damaged", checks.cut_weights), slow=True),
]  # fmt: skip

ROWS = [*TABLES, *TEACHERS, *SETTINGS, *PLACES, *FILES, *STORES, *ENDS]
