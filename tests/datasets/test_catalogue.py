import subprocess
import sys

import pytest

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.datasets.catalogue import SOURCES

AMAZON = [kind for kind in SOURCES if kind.startswith("amazon")]


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "table"])
def test_every_kind_has_addresses_and_names_for_its_files(kind, monkeypatch):
    monkeypatch.delenv("FISHER_LD_DATA", raising=False)
    source = DataSource(kind=kind, category="Gift_Cards" if kind in AMAZON else None)
    parts = SOURCES[kind].parts(source)
    assert all(part.address.startswith(("https://", "package:")) for part in parts)
    if kind in AMAZON:
        assert all("Gift_Cards" in part.address for part in parts)
    targets = [t for part in parts for t in ([part.target] if isinstance(part.target, str) else part.target.values())]
    assert len(set(targets)) == len(targets) >= 2


@pytest.mark.parametrize("kind", AMAZON)
def test_a_category_cannot_leave_its_folder(kind):
    with pytest.raises(UserError, match=r"expected a name such as All_Beauty, got '../Gift_Cards'"):
        SOURCES[kind].parts(DataSource(kind=kind, category="../Gift_Cards"))


def test_the_catalogue_loads_no_heavy_library():
    heavy = "{'torch', 'transformers', 'mlflow', 'matplotlib'}"
    code = f"import sys, fisher_ld.datasets.catalogue; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
