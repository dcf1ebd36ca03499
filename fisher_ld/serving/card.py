"""The model card of an exported model: a README.md as model hubs read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisher_ld.batches.lists import MAIN
from fisher_ld.config.params import Prompt
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import read_json

CARD = """---
library_name: transformers
pipeline_tag: text-classification
license: other
license_name: as-teacher-and-data
tags: [recommendation, reranking, distillation, onnx]
{base}---
# {title}

A language model that answers, for what a user liked and a candidate, whether the user will like it. Its score
z = logit(yes) - logit(no) ranks candidates. Made by Fisher-LD.

| what | |
| --- | --- |
{facts}

## Use
Meant for ranking some tens or hundreds of candidates of one user, in the language and domain of its data. It does not
find candidates, its scores of different users are not calibrated against each other, and what it learned is what the
users of its data liked, with their biases. It is no judge of people.

With Fisher-LD, candidates share the history in one row; ONNX Runtime is enough:
```python
import fisher_ld

model = fisher_ld.load("FOLDER")
scores, order = model.rank(["liked first", "liked last"], ["a candidate", "another"])
```

With transformers, one prompt for each candidate. The pieces are tokenised one by one, as in training:
```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER").eval()
pieces = [{prefix!r}]
pieces += [{history!r}.format(text=text) for text in ("liked first", "liked last")]
pieces += [{candidate!r}.format(text="a candidate")]
ids = tokenizer("").input_ids + sum(tokenizer(pieces, add_special_tokens=False).input_ids, [])
z = model(torch.tensor([ids])).logits.item()
```

| file | what |
| --- | --- |
| `model.safetensors`, `config.json`, `tokenizer.json` | for transformers and vLLM; one label, yes, whose logit is z |
| `model.onnx` | the same in float32; z differs from torch's by at most {fp32:.1e} on {examples} candidates |
| `model.int8.onnx` | layers and embeddings in 8 bits; z differs by {int8:.1e}, {order:.0%} of pairs keep order |
| `prompt.json`, `history.json` | what a prompt is made of, and how many liked texts at most |

## Licence
A model that starts from a teacher's weights is a derived work of it, and the teacher's licence holds for it. The terms
of the data hold too. Look both up at their sources before you publish or sell this model.
"""


def model_card(
    folder: Path, config: Mapping[str, Any], prompt: Prompt, fp32: float, int8: float, order: float, examples: int
) -> str:
    """Of the saved model in `folder`. `fp32`, `int8`: the largest differences to torch over so many `examples`;
    `order`: the share of their pairs that 8 bits order alike."""
    source = str(config.get("_name_or_path") or "")
    if Path(source).is_absolute() or Path(source).exists():  # where it lay on a machine
        source = ""
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", source)  # of a hub
    facts = {
        **origin(folder),
        "pretrained model": source or "not named in config.json",
        "architecture": f"{config['architectures'][0]}, {config.get('num_hidden_layers') or config['n_layer']} layers",
    }
    return CARD.format(
        base=f"base_model: {source}\n" if is_name else "",
        title=facts.get("model", folder.name),
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        **prompt.model_dump(),
        fp32=fp32,
        int8=int8,
        order=order,
        examples=examples,
    )


def origin(folder: Path) -> dict[str, str]:
    """What the place of a saved model and the files of its run tell: data set, method, metrics. Nothing for a model
    that lies below no data set."""
    data = DataPaths.around(folder)
    if data is None:
        return {}
    names = folder.absolute().relative_to(data.folder).parts
    seed = int(names[-1]) if names[-1].isdecimal() else 0
    model = "/".join(name for name in names[1:] if not name.isdecimal()) or names[0]
    facts = {"model": f"{model} of {data.name}, seed {seed}", "data set": data.name}
    if names[0] == "students":
        facts |= {"teacher": "adapted on the same data set", "method": names[2]}
    root = data.root.parent
    fit, evaluation = root / data.training(model, seed) / "fit.json", root / data.evaluate
    if fit.is_file():
        facts["NDCG@10, validation lists"] = f"{read_json(fit)['validation_ndcg_10']:.3f}"
    if evaluation.is_file():
        quality = read_json(evaluation)["quality"][MAIN]
        for name in dict.fromkeys((model, "teacher")):
            if name in quality:
                facts[f"NDCG@10, test lists, {name}"] = "{mean:.3f} ({low:.3f} to {high:.3f})".format(
                    **quality[name]["ndcg_10"]
                )
    return facts
