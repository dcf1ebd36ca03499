import stat
import zipfile

import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.fetch.archives import unpack


def make(path, *names):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, f"text of {name}" * 100)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_chosen_members_under_their_new_names(tmp_path, folder):
    archive = make(tmp_path / "a.zip", "in/one.txt", "in/two.txt", "in/three.txt")
    unpack(archive, folder, {"in/one.txt": "1", "in/two.txt": "2"})
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]
    assert (folder / "2").read_text() == "text of in/two.txt" * 100


@pytest.mark.parametrize("bad", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:\\evil", "C:evil"])
def test_entries_that_point_outside(tmp_path, folder, bad):
    archive = make(tmp_path / "a.zip", "good", bad)
    with pytest.raises(UserError, match="points outside the folder; nothing was unpacked"):
        unpack(archive, folder, {"good": "good"})
    assert list(folder.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]


def test_symbolic_link(tmp_path, folder):
    archive = make(tmp_path / "a.zip", "good")
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="'link' is a symbolic link"):
        unpack(archive, folder, {"good": "good", "link": "link"})
    assert list(folder.iterdir()) == []


def test_missing_member(tmp_path, folder):
    archive = make(tmp_path / "a.zip", *(f"file{i}" for i in range(7)))
    with pytest.raises(UserError, match=r"expected other in it, got file0, .*file4 and 2 more"):
        unpack(archive, folder, {"file0": "x", "other": "y"})
    assert list(folder.iterdir()) == []


def test_damaged_archives(tmp_path, folder):
    whole = make(tmp_path / "a.zip", "good").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    (tmp_path / "flipped.zip").write_bytes(whole[:40] + bytes([whole[40] ^ 255]) + whole[41:])
    for name in ("cut.zip", "flipped.zip"):
        with pytest.raises(UserError, match="not a zip archive that can be read"):
            unpack(tmp_path / name, folder, {"good": name})
