"""Where every file of a run lies, relative to the project's root. The parts of a path are the names of its cell: data
set, student, method, seed, shallow teacher.

A model is named `teacher`, `zero-shot` (the teacher before adaptation), `truncated-DEPTH` or `layerdrop-DEPTH` (shallow
teachers), STUDENT/start, STUDENT/METHOD, or rivals/NAME. The scores of all models stand on one shelf: those of the
validation lists, from which the gate and other choices are made, apart from those of the test lists.
"""

from __future__ import annotations

from pathlib import Path

DATA, METRICS = Path("data"), Path("metrics")
BASE = DATA / "teacher" / "base"
TABLES = METRICS / "tables"  # of the paper, filled
PLOTS = METRICS / "plots"  # what `dvc plots` draws: all cells in one table each
SUMMARY = METRICS / "summary.json"  # the few numbers that experiments are compared by
FURTHER = "-further"  # ends the name of a stage in dvc.yaml, of the methods of the first student alone
PARAMS = Path("params.yaml")
HISTORY = "history.json"  # {"length": most liked texts in a prompt}, of a data set and of an exported model
SHALLOW = ("truncated", "layerdrop")  # kinds of teachers with fewer layers


def cell(stage: str, *names: str | int) -> Path:
    """What a stage says of one of its cells, for people and for the report; `run.json` among it."""
    return METRICS.joinpath("cells", stage, *map(str, names or ["run"]))


def truncated(depth: int) -> str:
    """Name of the teacher's first layers, so many, adapted alone."""
    return f"truncated-{depth}"


def is_shallow(model: str) -> bool:
    return model.startswith(tuple(f"{kind}-" for kind in SHALLOW))


def kind_and_depth(shallow: str) -> tuple[str, int]:
    """One of SHALLOW, and how many layers it has."""
    kind, _, depth = shallow.rpartition("-")
    return kind, int(depth)


def for_tests(processed: Path) -> Path:
    """The folder beside `processed` of what only tests read: whom they are of, and their lists. What is learned and
    chosen does not depend on it, so that more test users or families train nothing anew."""
    return processed.with_name(f"{processed.name}_test")


def first_layers(depth: int) -> str:
    """What a truncated teacher has, in words."""
    return "first layer" if depth == 1 else f"first {depth} layers"


def start(student: str) -> str:
    """Name of what the students of a shape start from."""
    return f"{student}/start"


def student(student: str, method: str) -> str:
    return f"{student}/{method}"


def rival(name: str) -> str:
    return f"rivals/{name}"


class DataPaths:
    """The files of one data set."""

    def __init__(self, name: str, root: Path = DATA):
        self.name, self.root, self.folder = name, root, root / name
        self.raw, self.processed = self.folder / "raw", self.folder / "processed"
        self.processed_test = for_tests(self.processed)
        self.first_stage = self.folder / "first_stage"  # test lists by a rival, on which all models are scored
        self.rivals = self.folder / "rivals"
        self.item_states = self.folder / "item_states.safetensors"  # of texts, in the teacher before adaptation
        self.cache = self.folder / "cache"
        self.traces = self.folder / "fisher" / "traces.parquet"
        self.per_user = self.folder / "per_user.parquet"  # metrics of each model, family and seed: a row a user
        self.data_report = cell("preprocess", name) / "data_report.json"  # what filters left, what the lists hold
        self.fisher = cell("estimate_fisher", name) / "fisher.json"  # what the traces say, in numbers
        self.profile = cell("estimate_fisher", name) / "profile.csv"  # a row a layer
        self.evaluate = cell("evaluate", name) / "evaluate.json"
        self.calibration = cell("evaluate", name) / "calibration.json"  # what makes probabilities of scores
        self.examples = cell("evaluate", name) / "examples.json"  # what models put first for a few users

    def test_lists(self, family: str) -> Path:
        """Those of the first stage are written by `rivals`."""
        return (self.first_stage if family == "two-stage" else self.processed_test) / f"test_{family}.parquet"

    def signals(self, method: str) -> Path:
        """What a method needs of the teacher beside logits and states; of most nothing."""
        return self.folder / "signals" / method

    def weights(self, method: str) -> Path:
        return self.folder / "fisher" / "weights" / f"{method}.json"

    def model(self, model: str, seed: int = 0) -> Path:
        """The folder of a model: teacher/0, shallow/truncated-2, students/small/start, students/small/fisher-ld/0."""
        if model == "teacher":
            return self.folder / "teacher" / str(seed)
        if is_shallow(model):
            return self.folder / "shallow" / model
        shape, method = model.split("/")
        return self.folder / "students" / shape / ("start" if method == "start" else f"{method}/{seed}")

    def validation(self, model: str, seed: int = 0) -> Path:
        """Scores of the validation lists. Students' lie apart: the gate, which comes before them, reads all others."""
        shelf = "val" if "/" not in model or model.startswith("rivals/") else "val_students"
        return self.folder / "scores" / shelf / model / f"{seed}.parquet"

    def test(self, model: str, seed: int = 0) -> Path:
        """The folder with scores of the test lists, FAMILY.parquet."""
        return self.folder / "scores" / "test" / model / str(seed)

    @classmethod
    def around(cls, model: Path) -> DataPaths | None:
        """Those of the data set below which the folder of a model lies; None where it lies below none."""
        for parent in model.absolute().parents:
            if (parent / "processed" / "items.parquet").is_file():
                return cls(parent.name, parent.parent)
        return None

    def gate(self, student: str) -> Path:
        return cell("gate", self.name, student) / "gate.json"

    def strength(self, student: str, method: str) -> Path:
        """How much a method takes from the teacher, in times of what params say."""
        return cell("choose_strength", self.name, student, method) / "strength.json"

    def strength_trials(self, student: str, method: str) -> Path:
        """What it was chosen by: validation NDCG@10 at each factor."""
        return self.strength(student, method).with_name("trials.json")

    def efficiency(self, student: str) -> Path:
        return cell("efficiency", self.name, student) / "efficiency.json"

    def training(self, model: str, seed: int = 0) -> Path:
        """The folder of a model's training: fit.json (steps, validation), curve.csv (losses and validation by optimiser
        step) and, of a student, weights.csv (its layer weights by optimiser step, Eq. 9)."""
        if model == "teacher":
            return cell("adapt_teacher", self.name, seed)
        if is_shallow(model):
            return cell("adapt_shallow", self.name, model)
        return cell("distill", self.name, *model.split("/"), seed)
