"""A student in MLflow's model registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fisher_ld.core.errors import UserError
from fisher_ld.run.tracking import StageRun

PACKAGE = Path(__file__).parents[1]
ENTRY = PACKAGE / "serving" / "mlflow_model.py"
NEEDED = (  # by what MLflow serves, beside what these need themselves
    "mlflow", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "pandas", "polars", "psutil",
    "pydantic",
)  # fmt: skip
EXAMPLE = {"history": ["Toy Story", "Aladdin"], "candidates": ["Heat", "The Lion King", "Alien"]}


def register(run: StageRun, folder: Path, name: str, tags: Mapping[str, Any], history_length: int | None) -> None:
    """Logs the model saved in `folder` to the experiment's parent run as a pyfunc (signature, example, pinned
    requirements, this package's code), and registers it as the next version of `name` with these tags. Raises UserError
    where there is no such folder; a store that takes no model is reported, and stops nothing."""
    if not (folder / "prompt.json").is_file():
        raise UserError(f"{folder}: the best student is not there; run the stage that writes it (dvc repro distill)")
    run.open()
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it says at length that the example is a list of lists
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    texts, places, numbers = (Array(kind) for kind in (DataType.string, DataType.long, DataType.double))
    signature = ModelSignature(
        Schema([ColSpec(texts, "history"), ColSpec(texts, "candidates")]),
        Schema([ColSpec(numbers, "scores"), ColSpec(places, "order")]),
    )
    with run.reported(f"{folder} is not registered"):
        mlflow.set_tracking_uri(run.uri)
        mlflow.set_registry_uri(run.uri)
        with mlflow.start_run(run.parent_id):
            info = mlflow.pyfunc.log_model(
                name="student",
                python_model=str(ENTRY),
                artifacts={"model": str(folder)},
                model_config={"history_length": history_length},
                code_paths=[str(PACKAGE)],
                signature=signature,
                input_example=EXAMPLE,
                pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in NEEDED],
                registered_model_name=name,
            )
        for key, value in tags.items():
            run.client.set_model_version_tag(name, str(info.registered_model_version), key, str(value))
        print(f"registered as models:/{name}/{info.registered_model_version}")


def _public(package: str) -> str:
    """Its version without what only one place has, such as the +cpu of PyTorch."""
    return version(package).partition("+")[0]
