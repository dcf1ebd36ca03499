"""80 lists of five candidates, the second of which is the positive, and the same lists without labels."""

import numpy as np

from fisher_ld.batches.lists import make_lists
from fisher_ld.batches.prompts import Prompts

LIST_COUNT, EXAMPLES = 80, 400
_numbers = np.arange(LIST_COUNT)
_places = {"user": _numbers, "start": 0 * _numbers, "position": _numbers % 7, "positive": 0 * _numbers + 1}
_candidates = [(7 * i + np.arange(5)) % 37 for i in _numbers]
_sequences = [(3 * i + 2 * np.arange(7)) % 37 for i in _numbers]
LISTS = make_lists(_places, _candidates, _sequences)
UNLABELLED = make_lists({**_places, "positive": 0 * _numbers - 1}, _candidates, _sequences)
_pieces = [[3 + item, 3 + 5 * item % 37][: 1 + item % 2] for item in range(37)]
PROMPTS = Prompts([3], _pieces, _pieces)
