"""SASRec (Kang and McAuley 2018) as RecBole trains it. A script for the environment of `make sasrec`, where this
project is not installed: `python sasrec.py MODEL LISTS SCORES`.

MODEL is a folder with settings.json and runs.parquet (items: likes, oldest first). The weights are trained into it
where they are not there yet. LISTS is a Parquet file of history and candidates; SCORES gets a list of scores each. What
RecBole writes of itself is left in the working directory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import torch
from recbole.config import Config  # pyright: ignore[reportMissingImports]
from recbole.data import create_dataset  # pyright: ignore[reportMissingImports]
from recbole.data.dataloader import TrainDataLoader  # pyright: ignore[reportMissingImports]
from recbole.model.sequential_recommender import SASRec  # pyright: ignore[reportMissingImports]
from recbole.trainer import Trainer  # pyright: ignore[reportMissingImports]
from recbole.utils import init_seed  # pyright: ignore[reportMissingImports]

AT_ONCE = 256  # lists that are scored together


def write_likes(runs: pd.DataFrame, n_items: int, folder: Path) -> None:
    """RecBole's atomic files: every run is a user of its own, places are times, and every item is known."""
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame({"user_id:token": runs.index, "item_id:token": runs["items"]}).explode("item_id:token")
    table["timestamp:float"] = table.groupby("user_id:token").cumcount()
    table.to_csv(folder / "likes.inter", sep="\t", index=False)
    pd.DataFrame({"item_id:token": range(n_items)}).to_csv(folder / "likes.item", sep="\t", index=False)


def prepare(model: Path) -> tuple[Config, SASRec, TrainDataLoader]:
    """An untrained SASRec over the likes in `model`, and what it is to be trained on: all of them, none held out."""
    settings = json.loads((model / "settings.json").read_text())
    write_likes(pd.read_parquet(model / "runs.parquet"), settings["n_items"], Path("likes"))
    values = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
        "MAX_ITEM_LIST_LENGTH": settings["history"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [1, 0, 0]}, "group_by": "none", "order": "TO", "mode": "full"},
        "epochs": settings["epochs"],
        "hidden_dropout_prob": settings["dropout"],
        "attn_dropout_prob": settings["dropout"],
        "train_batch_size": settings["batch"],
        "seed": settings["seed"],
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    config = Config(model="SASRec", dataset="likes", config_dict=values)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    data = TrainDataLoader(config, dataset.build()[0], None, shuffle=True)
    return config, SASRec(config, dataset), data


def score(model: SASRec, data: TrainDataLoader, lists: pd.DataFrame) -> list[list[float]]:
    """The model's logit of every candidate as the next item after the history."""
    number = torch.tensor(data._dataset.token2id("item_id", [str(item) for item in range(model.n_items - 1)]))
    scores: list[list[float]] = []
    for begin in range(0, len(lists), AT_ONCE):
        block = lists.iloc[begin : begin + AT_ONCE]
        histories = [number[list(history[-model.max_seq_length :])] for history in block["history"]]
        padded = torch.zeros(len(block), model.max_seq_length, dtype=torch.long)  # (lists, T)
        for row, history in zip(padded, histories, strict=True):
            row[: len(history)] = history
        lengths = torch.tensor([max(1, len(history)) for history in histories])
        with torch.inference_mode():
            logits = model(padded, lengths) @ model.item_embedding.weight.T  # (lists, items)
        scores += [row[number[list(items)]].tolist() for row, items in zip(logits, block["candidates"], strict=True)]
    return scores


def main(model: Path, lists: Path, scores: Path) -> None:
    config, sasrec, data = prepare(model)
    weights = model / "weights.pt"
    if not weights.is_file():
        trainer = Trainer(config, sasrec)
        torch.autograd.set_detect_anomaly(False)  # a model of RecBole switches it on when all are imported
        trainer.fit(data, saved=False, verbose=False)
        torch.save(sasrec.state_dict(), model / "weights.new")
        (model / "weights.new").replace(weights)
    sasrec.load_state_dict(torch.load(weights))
    found = score(sasrec.eval(), data, pd.read_parquet(lists))
    pd.DataFrame({"scores": found}).to_parquet(scores)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
