"""The sections of ``params.yaml``: every parameter with its type and range."""

import re
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, StrictBool, model_validator
from pydantic_core import PydanticCustomError

Scores = Literal["ratings", "order"]
# A section of train, and a module in recommender.models.
Model = Literal["mf", "softmax_mf", "encoded_mf", "kernel"]
MODELS: Final = get_args(Model)
Dataset = Literal["ml-100k", "ml-latest-small", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-100k-zip", "own"]


def _refuse_boolean(value: Any) -> Any:  # noqa: ANN401 - whatever YAML contained
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _lower_checksum(value: Any) -> Any:  # noqa: ANN401 - whatever YAML contained
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError("must be the 64 hexadecimal digits, as text, that `sha256sum ARCHIVE` prints")
    return value.lower()


def _name_or_number(value: Any) -> Any:  # noqa: ANN401 - whatever YAML contained
    number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if value is not None and not number and not (isinstance(value, str) and value):
        raise ValueError("must be the name of a column, its number from 1 on, none, or null")
    return value


def _separator(value: Any) -> Any:  # noqa: ANN401 - whatever YAML contained
    if not isinstance(value, str) or (value != "::" and (len(value) != 1 or value in '"\r\n')):
        raise ValueError("must be one character, neither a quote nor a line end, or '::'")
    return value


Integer = Annotated[int, BeforeValidator(_refuse_boolean)]
# YAML 1.1 reads 5e-4 as a string, and DVC writes such numbers: pydantic turns numeric strings into floats.
Number = Annotated[float, BeforeValidator(_refuse_boolean), Field(allow_inf_nan=False)]
Seed = Annotated[Integer, Field(ge=0, le=2**32 - 1)]
ListLength = Annotated[Integer, Field(ge=1, le=1000)]
Count = Annotated[Integer, Field(ge=0, le=10**9)]
Rating = Annotated[Number, Field(ge=-1e30, le=1e30)]
Text = Annotated[str, Field(min_length=1)]
Checksum = Annotated[str, BeforeValidator(_lower_checksum)]
Column = Annotated[int | str | None, PlainValidator(_name_or_number)]
Share = Annotated[Number, Field(ge=0, le=1)]
UserShare = Annotated[Number, Field(gt=0, le=1)]
Base = Annotated[Number, Field(gt=0, le=100)]
Exponent = Annotated[Number, Field(ge=0, le=2)]
Positive = Annotated[Number, Field(gt=0, le=1000)]
Dropout = Annotated[Number, Field(ge=0, le=0.99)]


class Section(BaseModel):
    """A section of ``params.yaml``: immutable, without any key beyond those declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(Section):
    """Which columns of own files are what: names, or numbers from 1; none: there is no such column."""

    user: Column
    item: Column
    rating: Column
    timestamp: Column
    title: Column
    categories: Column


class Own(Section):
    """The user's own files, read where data.dataset is own."""

    ratings: Text | None
    items: Text | None
    sha256: Checksum | None
    items_sha256: Checksum | None
    separator: Annotated[str, BeforeValidator(_separator)] | None
    header: StrictBool | None
    columns: Columns
    scale: tuple[Rating, Rating] | None
    duplicates: Literal["error", "last", "mean", "max"]

    @model_validator(mode="after")
    def _scale_rises(self) -> Self:
        if self.scale and self.scale[0] > self.scale[1]:
            rule = "the lowest rating must not be above the highest"
            raise PydanticCustomError("conflict", f"data.own.scale: {rule}; found {list(self.scale)}")
        return self


class MinRatings(Section):
    """How many ratings users and items must have to be kept."""

    user: Count
    item: Count


class Data(Section):
    """Which ratings to use and where to get them."""

    dataset: Dataset
    archive: Text | None
    sha256: Checksum | None
    own: Own
    min_ratings: MinRatings
    min_rating_value: Rating | None

    @model_validator(mode="after")
    def _own_ratings(self) -> Self:
        if self.dataset == "own" and self.own.ratings is None:
            rule = "must be a path or URL where data.dataset is own: `make own RATINGS=ratings.csv` sets it"
            raise PydanticCustomError("conflict", f"data.own.ratings: {rule}; found None")
        return self


class Split(Section):
    """How the ratings are divided into train, validation and test."""

    method: Literal["random", "per_user", "leave_last", "temporal", "user_fold", "hash"]
    test_size: Annotated[Number, Field(gt=0, lt=1)]
    validation_size: Annotated[Number, Field(ge=0, lt=1)]
    n: Annotated[Integer, Field(ge=1, le=10**6)]
    fold_in_share: Annotated[Number, Field(gt=0, lt=1)]
    seed: Seed


class EarlyStopping(Section):
    """When to stop, by a metric on the validation part."""

    patience: Annotated[Integer, Field(ge=0, le=10_000)]
    metric: Literal["map", "ndcg", "precision", "recall", "mrr", "hit_rate", "rmse", "mae"]
    k: ListLength
    relevance_quantile: Share


class ModelSection(Section):
    """The parameters of one model."""

    scores: ClassVar[Scores]  # whether they predict ratings or only order items

    embedding_size: Annotated[Integer, Field(ge=1, le=4096)]


class TrainedSection(ModelSection):
    """The parameters of a model that is trained in epochs."""

    loss: ClassVar[str] = "squared error (stars²)"  # reported for a rating, and its unit

    schedule: Literal["constant", "cosine"]
    learning_rate: Annotated[Number, Field(gt=0, le=1)]
    batch_size: Annotated[Integer, Field(ge=1, le=2**20)]
    epochs: Annotated[Integer, Field(ge=1, le=10_000)]
    ensemble_size: Annotated[Integer, Field(ge=1, le=16)]


class Mf(TrainedSection):
    """Matrix factorization of ratings."""

    scores: ClassVar[Scores] = "ratings"

    interaction: Literal["dot", "batch_sum"]
    global_mean: StrictBool
    optimizer: Literal["adam", "lazy_adam"]
    l2: Share

    @model_validator(mode="after")
    def _batch_sum_alone(self) -> Self:
        if self.interaction == "batch_sum" and self.ensemble_size > 1:
            rule = "must be 1 with train.mf.interaction: batch_sum"
            raise PydanticCustomError("conflict", f"train.mf.ensemble_size: {rule}; found {self.ensemble_size}")
        return self


class SoftmaxMf(TrainedSection):
    """Matrix factorization trained to rank."""

    scores: ClassVar[Scores] = "order"
    loss: ClassVar[str] = "cross entropy (nats)"

    rating_base: Base
    dropout: Dropout
    user_l2: Share
    item_l2: Share


class EncodedMf(TrainedSection):
    """Matrix factorization with item vectors computed from ratings."""

    scores: ClassVar[Scores] = "ratings"

    dropout: Dropout
    l2: Share
    encoder_l2: Share


class Kernel(ModelSection):
    """Leading features of a kernel between users, in closed form."""

    scores: ClassVar[Scores] = "order"

    rating_base: Base
    user_discount: Exponent
    item_gamma: Positive
    item_scale: Exponent
    item_ridge: Positive
    profile_weight: Positive
    item_discount: Exponent
    user_gamma: Positive
    user_scale: Exponent
    ridge: Positive
    max_users: Annotated[Integer, Field(ge=1, le=20_000)]
    max_items: Annotated[Integer, Field(ge=1, le=20_000)]


class Train(Section):
    """The model and its training."""

    model: Model
    seed: Seed
    early_stopping: EarlyStopping
    final_fit: Literal[False, True, "all"]
    mf: Mf
    softmax_mf: SoftmaxMf
    encoded_mf: EncodedMf
    kernel: Kernel

    @property
    def section(self) -> ModelSection:
        """The section of the model in use."""
        section: ModelSection = getattr(self, self.model)
        return section

    @property
    def learned_from(self) -> tuple[str, ...]:
        """The parts of the split that the final model and the baselines learn from."""
        return ("train", "validation", "test")[: {False: 1, True: 2, "all": 3}[self.final_fit]]

    @model_validator(mode="after")
    def _stopping_fits(self) -> Self:
        metric, patience = self.early_stopping.metric, self.early_stopping.patience
        if self.section.scores == "order" and metric in ("rmse", "mae"):
            rule = f"{self.model} ranks and predicts no ratings: must be map, ndcg, precision, recall, mrr or hit_rate"
            raise PydanticCustomError("conflict", f"train.early_stopping.metric: {rule}; found '{metric}'")
        if patience and not isinstance(self.section, TrainedSection):
            rule = f"{self.model} is solved in closed form and has no epochs: must be 0"
            raise PydanticCustomError("conflict", f"train.early_stopping.patience: {rule}; found {patience}")
        return self


class Evaluate(Section):
    """How ranking is measured."""

    k: ListLength
    relevance_quantile: Share
    user_share: UserShare


class Baselines(Section):
    """The models that any model must beat."""

    item_mean_damping: Annotated[Number, Field(ge=0, le=1e6)]
    ease_lambda: Annotated[Number, Field(gt=0, le=1e6)]
    ease_min_rating: Annotated[Number, Field(ge=0, le=5)]
    ease_max_items: Annotated[Integer, Field(ge=0, le=100_000)]


class Recommend(Section):
    """The recommendations written for every user."""

    k: ListLength
    user_share: UserShare


class Engine(Section):
    """How the work is cut."""

    parts: Annotated[Integer, Field(ge=1, le=200)]  # more make more row groups than a file can be read quickly with


class Params(Section):
    """All of ``params.yaml``."""

    data: Data
    split: Split
    train: Train
    evaluate: Evaluate
    baselines: Baselines
    recommend: Recommend
    engine: Engine
