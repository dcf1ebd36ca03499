"""An exported model under ONNX Runtime, without PyTorch and transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import in_pieces, longest_first, pack_rows
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.compute import usable_threads
from fisher_ld.core.errors import WHOLE, UserError, reading
from fisher_ld.serving.predictor import FP32, INT8

CONTEXT = "context"  # of a model's metadata


class OnnxBackend:
    """The graph of an exported folder (fisher_ld.serving.export): in 8 bits, or all in float32.
    `threads` None: $OMP_NUM_THREADS, else every core. Raises UserError for a folder without a graph."""

    def __init__(self, folder: Path, int8: bool = True, threads: int | None = None):
        file = folder / (INT8 if int8 else FP32)
        if not file.is_file():
            raise UserError(f"{file}: no such file; write it with: fisher-ld export MODEL {folder}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_threads(threads)
        with reading(file, WHOLE):
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            self.context = int(self.session.get_modelmeta().custom_metadata_map[CONTEXT])

    def logits(self, lists: Lists, prompts: Prompts) -> np.ndarray:
        """z of every example: (examples,) float32. Raises UserError for a prompt longer than the model's context."""
        logits = np.empty(lists.offsets[-1], np.float32)
        pieces = in_pieces(lists, prompts)
        for group in longest_first(pieces, prompts, 1):
            rows = pack_rows(pieces, group, prompts, self.context)
            given = {name: getattr(rows, name) for name in ("input_ids", "position_ids", "segment", "visible")}
            (found,) = self.session.run(["logits"], {**given, "decision": rows.decision[None, :, 1]})
            logits[rows.examples] = np.asarray(found)[0]  # of (1, n)
        return logits
