"""A saved model as MLflow serves it. MLflow runs this file from the model's own folder (models from code), so that
nothing is pickled."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from fisher_ld.core.errors import UserError
from fisher_ld.serving.predictor import load


class Ranker(PythonModel):
    """A row a query: history and candidates in, scores and order of the candidates out."""

    def load_context(self, context: Any) -> None:
        self.predictor = load(context.artifacts["model"])
        self.predictor.history_length = context.model_config["history_length"]  # no data set lies around its copy

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        queries = zip(model_input["history"], model_input["candidates"], strict=True)
        try:
            rankings = [self.predictor.rank(list(history), list(texts)) for history, texts in queries]
        except (UserError, ValueError) as error:  # its server answers 400 to these alone
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(
            {"scores": [r.scores.tolist() for r in rankings], "order": [r.order.tolist() for r in rankings]}
        )


set_model(Ranker())
