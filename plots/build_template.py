"""Writes plots/template.html: the page of `dvc plots` with its scripts inside, so that it opens offline.

    python plots/build_template.py

needs npm and its registry; only to change the versions. The scripts are those that DVC's Vega-Lite v5 specs ask for.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

SCRIPTS = {"vega": "5.33.1", "vega-lite": "5.23.0", "vega-embed": "6.29.0"}
SAME_LICENCE = (
    "Copyright (c) University of Washington Interactive Data Lab; BSD-3-Clause, the text below"  # vega packs none
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Fisher-LD plots</title>
<style>
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; font: 15px/1.5 system-ui, sans-serif; }
table { border-spacing: 15px; }
img { max-width: 100%; }
</style>
SCRIPTS
</head>
<body>
<h1>Fisher-LD plots</h1>
{plot_divs}
</body>
</html>
"""


def packed(name: str, version: str, folder: Path) -> str:
    """The minified script of an npm package, after its licence."""
    command = ["npm", "pack", "--silent", f"{name}@{version}"]
    archive = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with tarfile.open(folder / archive) as tar:
        texts = {
            m.name: file.read() for m in tar.getmembers() if (file := tar.extractfile(m)) and "/src/" not in m.name
        }
    licence = texts.get("package/LICENSE", SAME_LICENCE.encode()).decode()
    script = texts[f"package/build/{name}.min.js"].decode()
    for text in ("</script", "{plot_divs}", "{refresh_tag}", "{scripts}"):
        if text in script:
            raise SystemExit(f"{name} {version} holds {text!r}, which would break the page; choose another version")
    return f"<script>\n/* {name} {version}\n{licence.strip()}\n*/\n{script}\n</script>"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scripts = "\n".join(packed(name, version, Path(folder)) for name, version in SCRIPTS.items())
    target = Path(__file__).with_name("template.html")
    target.write_text(PAGE.replace("SCRIPTS", scripts), encoding="utf-8")
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
