"""Export the trained model as a TensorFlow SavedModel, which serves requests by ids."""

import sys

from recommender.environment import check_environment
from recommender.errors import run
from recommender.models.core.backend import leave
from recommender.models.serving.graph import Serving
from recommender.models.serving.saving import save
from recommender.params_file import load_params
from recommender.ranking import fold_in
from recommender.ranking.recommender import Recommender


def main() -> None:
    """Write the model with the signatures that are possible for it."""
    check_environment("training")
    serving = Serving(Recommender.read(load_params().train.learned_from), fold_in.load())
    signatures = serving.signatures()
    if "recommend" not in signatures:
        reason = "with train.mf.interaction: batch_sum a score depends on what else is scored"
        print(f"models/serving: has similar_items alone: {reason}", file=sys.stderr)
    save(serving, signatures)


if __name__ == "__main__":
    run(main)
    leave()
