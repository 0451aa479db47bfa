"""An ONNX file through TensorRT's parser and builder. Precision is in the graph: networks are strongly typed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from exporters import Engine, borders, precision
from exporters.errors import ArtifactRejected, ExportFailed
from exporters.files import write_whole
from exporters.onnx import read
from exporters.tensorrt import census
from exporters.tensorrt.flavour import Flavour, Log, gpu, listener, reasons

if TYPE_CHECKING:
    import tensorrt as trt
    from onnx import ModelProto

_MIB = 2**20
_HIGHEST_LEVEL = 5
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class Plan:
    """A finished engine as bytes, and what was found in it."""

    content: bytes
    census: dict[str, int]
    census_from: str
    classes: int
    borders: borders.Borders
    metadata: dict[str, str]

    @property
    def precision(self) -> str:
        """The type of most weights."""
        return precision.precision_of(self.census)


def build_plan(flavour: Flavour, source: Path, engine: Engine) -> Plan:
    """Build the engine of an ONNX classifier on this machine. The runtime must be here, see `Flavour.require`.

    Raises:
        ArtifactRejected: not an ONNX classifier, or an operator that the parser does not know, with its node.
        ExportFailed: settings that make no sense, or the builder gave up; the hint has its own words.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = import_module(flavour.module)

    model = read(source)
    found = borders.find(source, model)
    _check(flavour, source, engine, found)
    logger, log = listener(flavour)
    log.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        raise _unreadable(flavour, source, parser, log)
    classes = _classes(source, network)
    network.name = source.stem

    config = builder.create_builder_config()
    config.builder_optimization_level = engine.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the census
    (config.set_flag if engine.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)  # on by default
    if engine.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, engine.workspace_mb * _MIB)
    if engine.hardware != "this":
        levels = trt.HardwareCompatibilityLevel
        chosen = levels.AMPERE_PLUS if engine.hardware == "ampere+" else levels.SAME_COMPUTE_CAPABILITY
        config.hardware_compatibility_level = chosen
    if engine.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)  # host code, which no plan of ours carries
    _add_profile(builder, config, network.get_input(0), engine, found, log)
    cache = None if flavour.portable else engine.timing_cache  # TensorRT-RTX measures when it runs
    if cache is not None:
        _read_cache(config, cache)

    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportFailed(f"{flavour.title} could not build a plan from {source}", hint=log.reason() or None)
    if cache is not None and (measured := config.get_timing_cache()) is not None:
        write_whole(cache, bytes(measured.serialize()))
    content = bytes(serialized)
    counts, source_of_counts = _counts(flavour, content, log.layers, model)
    return Plan(
        content=content,
        census=counts,
        census_from=source_of_counts,
        classes=classes,
        borders=found,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _check(flavour: Flavour, source: Path, engine: Engine, found: borders.Borders) -> None:
    """Refuse settings that the builder would take for others, or refuse in its own words after minutes."""
    low, usual, high = engine.batch
    profile = f"{low}:{usual}:{high}"
    if not 1 <= low <= usual <= high:
        raise ExportFailed(
            f"the batch profile {profile} is not smallest:usual:largest", hint="give it for example as 1:8:32"
        )
    if found.batch is not None and {low, usual, high} != {found.batch}:
        raise ExportFailed(
            f"{source} takes batches of {found.batch} images only, not {profile}",
            hint=f"--batch {found.batch}:{found.batch}:{found.batch}, or export it with a free batch size",
        )
    if not 0 <= engine.optimization_level <= _HIGHEST_LEVEL:
        raise ExportFailed(f"the optimisation level is 0 to {_HIGHEST_LEVEL}, not {engine.optimization_level}")
    if engine.workspace_mb is not None and engine.workspace_mb < 1:
        raise ExportFailed(f"a workspace of {engine.workspace_mb} MiB is none", hint="leave it out for all there is")
    if flavour.portable and engine.hardware != "this":
        raise ExportFailed(
            f"{flavour.title} plans already fit every GPU it supports, {engine.hardware!r} is not offered",
            hint="leave the hardware setting out",
        )
    if flavour.portable and engine.version_compatible:
        raise ExportFailed(
            f"{flavour.title} plans load in the version that built them only, version-compatible ones are not offered",
            hint="keep the ONNX file beside the plan and rebuild it there",
        )


def _unreadable(flavour: Flavour, source: Path, parser: trt.OnnxParser, log: Log) -> ArtifactRejected:
    if parser.num_errors == 0:
        return ArtifactRejected(f"{flavour.title} cannot read {source}", hint=log.reason() or None)
    error = parser.get_error(0)
    operator, node = error.node_operator(), error.node_name()
    if not operator:
        return ArtifactRejected(f"{flavour.title} cannot read {source}", hint="; ".join(reasons(error.desc())) or None)
    sentence = f"{flavour.title} cannot read the operator {operator!r} (node {node!r}) of {source}"
    if operator.startswith(_QUANTISED):
        return ArtifactRejected(
            f"{sentence}: it is quantised in a way that {flavour.title} does not take",
            hint="quantise it with the recipe trt, whose zero points are all 0 and whose biases stay in fp32",
        )
    said = [
        reason for reason in reasons(error.desc()) if reason.isascii() and " " in reason and "Plugin not" not in reason
    ]
    said = [reason for reason in said if not reason.startswith("Invalid Node")]
    return ArtifactRejected(sentence, hint=said[0] if said else "replace it in the network's forward")


def _classes(source: Path, network: trt.INetworkDefinition) -> int:
    shape = network.get_output(0).shape
    if len(shape) != 2 or shape[1] < 1:
        raise ArtifactRejected(
            f"{source} returns {shape}, not logits [batch, classes] with the number of classes fixed"
        )
    return shape[1]


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    taken: trt.ITensor,
    engine: Engine,
    found: borders.Borders,
    log: Log,
) -> None:
    channels, height, width = found.input_shape
    image = (height, width, channels) if found.pixels == "uint8" else (channels, height, width)
    profile = builder.create_optimization_profile()
    low, usual, high = ((size, *image) for size in engine.batch)
    profile.set_shape(taken.name, low, usual, high)
    if config.add_optimization_profile(profile) < 0:
        raise ExportFailed(f"the batch profile {engine.batch} does not fit the graph", hint=log.reason() or None)


def _read_cache(config: trt.IBuilderConfig, path: Path) -> None:
    """Give the builder the measurements of earlier builds; those of another GPU or version it does not take."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        stored = b""
    except OSError as error:
        raise ExportFailed(f"cannot read the timing cache {path}: {(error.strerror or str(error)).lower()}") from error
    for content in (stored, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _counts(flavour: Flavour, content: bytes, listing: str, model: ModelProto) -> tuple[dict[str, int], str]:
    """Return the weights by the type they are computed in, and where that was found.

    Layers that do not say what they hold leave the graph as the only witness, which strong typing makes a good one.
    """
    graph = precision.weights_by_type(model)
    text = _inspection(flavour, content) if gpu() is not None else ""
    for layers, where in ((census.inspected(text), "engine"), (census.printed(listing), "builder")):
        counts = census.weights_by_type(layers)
        if 2 * sum(counts.values()) > sum(graph.values()):
            return counts, where
    return graph, "graph"


def _inspection(flavour: Flavour, content: bytes) -> str:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = import_module(flavour.module)

    engine = trt.Runtime(listener(flavour)[0]).deserialize_cuda_engine(content)
    if engine is None:  # built for other GPUs than this one
        return ""
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
