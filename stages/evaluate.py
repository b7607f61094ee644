"""Measure the trained factors on the test ratings: top-K ranking over the whole catalogue, and rating errors."""

from pathlib import Path

from stages.lib.errors import run
from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut, check_k, evaluate, summary
from stages.lib.metrics import at_k
from stages.lib.params import load_params
from stages.lib.storage import write_csv, write_json

METRICS = Path("metrics/evaluate.json")
AT_K = Path("metrics/at_k.csv")


def main() -> None:
    """Evaluate as ``params.yaml`` says and write the metrics at K and at every k up to it."""
    params = load_params().evaluate
    held_out = HeldOut.read(params.relevance_quantile)
    check_k("params.yaml: evaluate.k", params.k, held_out.ratings.shape[1])
    factors = Factors.load()
    factors.check_shape(held_out.ratings.shape)
    ranking, errors = evaluate(factors, held_out, params.k)
    write_json(METRICS, summary(ranking, errors))
    write_csv(AT_K, at_k(ranking))


if __name__ == "__main__":
    run(main)
