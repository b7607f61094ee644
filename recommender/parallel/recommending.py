"""The recommend stage in parts: tasks that each list items for some users."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recommender.data.blocks import read_user_ids
from recommender.data.interactions import read_shape
from recommender.data.sampling import Sample
from recommender.parallel.engine import Arrays, engine, publishing
from recommender.parallel.users import UserPlan, count_users
from recommender.params import Params
from recommender.paths import FACTORS, ITEMS, PARTS, RECOMMENDATIONS, USERS
from recommender.ranking.recommender import Recommender
from recommender.ranking.topk import check_k
from recommender.storage import read_schema, read_table, writing_row_groups


def recommend_in_parts(params: Params) -> None:
    """Write what `Recommender.recommend_all` returns, some users at a time: part after part, by index and rank."""
    settings, learned_from, parts = params.recommend, params.train.learned_from, params.engine.parts
    decides = f"{settings.model_dump_json()} {learned_from} {params.split.seed} {parts}"
    with engine("recommend", "tables", decides, [USERS, ITEMS, *PARTS.values(), FACTORS]) as run:
        shape, sample = read_shape(), Sample(settings.user_share, params.split.seed)
        check_k("params.yaml: recommend.k", settings.k, shape[1])
        learned = tuple(PARTS[name] for name in learned_from)
        plan = UserPlan(run.folder, shape, parts, tuple(PARTS.values()), learned, sample, settings.k)
        count_users(run, plan)
        run.map("recommend", recommend_part, [(plan, part) for part in range(parts)])
        with writing_row_groups(RECOMMENDATIONS, _schema()) as add:
            for part in range(parts):
                add(read_table(_listed(plan, part)))


def recommend_part(plan: UserPlan, part: int) -> Arrays:
    """Write the recommendations for a part's users."""
    users = plan.users(part)
    recommender = Recommender(
        plan.factors(FACTORS, part),
        plan.read_sampled(plan.known, part).matrix(),
        plan.read_sampled(plan.learned, part).matrix(),
        folded=np.zeros(len(users), dtype=bool),
        user_ids=read_user_ids(plan.parts, part),
        items=read_table(ITEMS, ["item_id", "title", "categories"]),
        learned=plan.has_learned(part),
    )
    table = recommender.recommend_all(plan.k, plan.sample.has(users))
    with publishing(_listed(plan, part)) as path:
        pq.write_table(table.cast(_schema()), path)
    return {}


def _schema() -> pa.Schema:
    """Return the columns, whose types an empty part does not tell."""
    items = read_schema(ITEMS)
    names = [(name, items.field(name).type) for name in ("item_id", "title", "categories")]
    first = [("user_id", read_schema(USERS).field("user_id").type), ("rank", pa.int32())]
    return pa.schema([*first, names[0], ("score", pa.float32()), *names[1:]])


def _listed(plan: UserPlan, part: int) -> Path:
    return Path(plan.folder) / f"recommendations-{part}.parquet"
