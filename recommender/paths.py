"""Every file that the stages read and write, and the order in which the stages run."""

from pathlib import Path
from typing import Final

STAGES: Final = ("fetch", "extract", "split", "train", "evaluate", "baselines", "recommend", "export", "report")

PARAMS: Final = Path("params.yaml")

ENVIRONMENT: Final = Path("environment")
# Stages by the list of packages that decides their bytes; fetch's are decided by a checksum.
ENVIRONMENT_GROUPS: Final = {
    "tables": ("extract", "split", "evaluate", "baselines", "recommend"),
    "training": ("train", "export"),
    "drawing": ("report",),
}

ARCHIVE: Final = Path("data/raw/archive.zip")

RATINGS: Final = Path("data/interim/ratings.parquet")
LISTED_ITEMS: Final = Path("data/interim/items.parquet")

PROCESSED: Final = Path("data/processed")
TRAIN: Final = PROCESSED / "train.parquet"
VALIDATION: Final = PROCESSED / "validation.parquet"
TEST: Final = PROCESSED / "test.parquet"
GIVEN: Final = PROCESSED / "fold_in.parquet"  # ratings of users held out whole, given at test time
PARTS: Final = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
USERS: Final = PROCESSED / "users.parquet"
ITEMS: Final = PROCESSED / "items.parquet"
SPLIT_METRICS: Final = Path("metrics/split.json")

MODEL: Final = Path("models/mf.keras")
FACTORS: Final = Path("models/factors.npz")
FOLD_IN: Final = Path("models/fold_in.npz")
SERVING: Final = Path("models/serving")
TRAIN_METRICS: Final = Path("metrics/train.json")
HISTORY: Final = Path("metrics/history.csv")

METRICS: Final = Path("metrics/evaluate.json")
AT_K: Final = Path("metrics/at_k.csv")
USER_METRICS: Final = Path("metrics/users.parquet")
BASELINES: Final = Path("metrics/baselines.json")
BASELINES_AT_K: Final = Path("metrics/baselines_at_k.csv")
BASELINES_USERS: Final = Path("metrics/baselines_users.parquet")

RECOMMENDATIONS: Final = Path("data/recommendations.parquet")
REPORT: Final = Path("reports/index.html")
MODEL_CARD: Final = Path("reports/model_card.md")
DATA_CARD: Final = Path("reports/data_card.md")
