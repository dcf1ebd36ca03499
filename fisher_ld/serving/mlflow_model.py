"""A saved model as MLflow serves it. MLflow runs this file from the model's own folder (models from code), so that
nothing is pickled."""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd

from fisher_ld.core.errors import UserError
from fisher_ld.serving.predictor import load


class Ranker(mlflow.pyfunc.PythonModel):
    """A row a query: history and candidates in, scores and order of the candidates out."""

    def load_context(self, context: Any) -> None:
        self.predictor = load(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        queries = zip(model_input["history"], model_input["candidates"], strict=True)
        try:
            rankings = [self.predictor.rank(list(history), list(texts)) for history, texts in queries]
        except (UserError, ValueError) as error:  # its server answers 400 to these alone
            raise mlflow.exceptions.MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(
            {"scores": [r.scores.tolist() for r in rankings], "order": [r.order.tolist() for r in rankings]}
        )


mlflow.models.set_model(Ranker())
