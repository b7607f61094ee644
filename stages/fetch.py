"""Fetch the archive of ratings and keep it only if its checksum is right."""

import sys

from recommender.data.download import fetch
from recommender.data.movielens import RELEASES
from recommender.data.own.fetching import fetch as fetch_own
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import ARCHIVE


def main() -> None:
    """Fetch the archive that ``params.yaml`` names, unless it is here already."""
    data = load_params().data
    if data.dataset == "own":
        fetch_own(data.own, ARCHIVE)
        return
    release = RELEASES[data.dataset]
    checksum = f"sha256:{data.sha256}" if data.sha256 else release.checksum
    fetched = fetch(data.archive or release.source, checksum, ARCHIVE, release.limit)
    if data.archive is not None and not fetched:
        print(f"{ARCHIVE}: already has the right checksum; data.archive is not read", file=sys.stderr)


if __name__ == "__main__":
    run(main)
