"""A SavedModel with the same bytes every time."""

import re
import shutil
import tempfile
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Final

from recommender.errors import UserError, cannot_write
from recommender.models.core.backend import tf
from recommender.paths import SERVING
from recommender.storage import atomic

GRAPH, FINGERPRINT = "saved_model.pb", "fingerprint.pb"
COUNTED: Final = re.compile(r"_\d+$")  # what TensorFlow has made in this process before a function


def save(model: tf.Module, signatures: dict[str, Any], folder: Path = SERVING) -> None:
    """Write a module with these signatures; nothing in the folder changes before all of it is written."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        try:
            tf.saved_model.save(model, name, signatures=signatures)
            _write_again(made)
        except tf.errors.OpError as error:  # "... FILE; No space left on device [Op:SaveV2]"
            reason = error.message.rpartition("; ")[2].partition(" [")[0]
            remedy = "make room for temporary files, then retry"
            raise UserError(f"{folder}: cannot be written: {reason}; {remedy}") from error
        except OSError as error:
            raise cannot_write(folder, error) from error
        with ExitStack() as files:  # which get their names in reverse order, the graph last
            for path in sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file()):
                shutil.copyfile(made / path, files.enter_context(atomic(folder / path)))


def _write_again(folder: Path) -> None:
    """Write graph and fingerprint without what differs from one process to the next."""
    from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2  # after the backend, which sets TensorFlow up
    from tensorflow.python.saved_model import fingerprinting_utils

    path = folder / GRAPH
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    numbered(saved)
    path.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))
    path = folder / FINGERPRINT
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    # In place of a random number.
    fingerprint.uuid = str(fingerprint.saved_model_checksum ^ fingerprint.checkpoint_hash)
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def numbered(saved: Any) -> None:  # noqa: ANN401 - a SavedModel
    """Sort functions by name and number them from 0, where TensorFlow has a count, and the order of a hash.

    The tables that a function reads are its arguments, and are named by a count too.
    """
    (graph,) = saved.meta_graphs
    library, objects = graph.graph_def.library.function, graph.object_graph_def
    library.sort(key=lambda each: COUNTED.sub("", each.signature.name))
    plain = {each.signature.name: COUNTED.sub(f"_{number}", each.signature.name) for number, each in enumerate(library)}
    for node in chain(graph.graph_def.node, *(each.node_def for each in library)):
        for attribute in node.attr.values():
            if attribute.HasField("func"):
                attribute.func.name = plain[attribute.func.name]
    for each in library:
        each.signature.name = plain[each.signature.name]
        for argument in each.arg_attr.values():
            name = argument.attr.get("_user_specified_name")
            if name is not None and name.s.isdigit():
                del argument.attr["_user_specified_name"]
    for name in list(objects.concrete_functions):
        objects.concrete_functions[plain[name]].CopyFrom(objects.concrete_functions.pop(name))
    for node in objects.nodes:
        if node.HasField("function"):
            node.function.concrete_functions[:] = [plain[name] for name in node.function.concrete_functions]
        if node.HasField("bare_concrete_function"):
            called = node.bare_concrete_function
            called.concrete_function_name = plain[called.concrete_function_name]
