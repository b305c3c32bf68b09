"""`Anatomy` from a file's header, exactly, or from a catalogue row, about.

Both raise `UnknownArchitecture` where what memory depends on is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from freehold.domain.errors import UnknownArchitecture
from freehold.domain.sentences import said
from freehold.machine.anatomy import Anatomy, Attention, Layer, Weights, by_type
from freehold.machine.architectures import FAMILIES, Family
from freehold.weights.catalog import Architecture, CatalogFile, CatalogModel
from freehold.weights.gguf_header import GgufArray, GgufHeader, TensorInfo
from freehold.weights.gguf_types import TensorType

_F32 = 4
_CANNOT_TELL = "The memory and speed of this model cannot be told"


def _family(architecture: str | None) -> Family:
    family = FAMILIES.get(architecture or "")
    if family is None:
        if not architecture:
            raise UnknownArchitecture(
                said("plan.no_architecture", f"{_CANNOT_TELL}: its architecture is not known here.")
            )
        template = f"{_CANNOT_TELL}: the architecture {{architecture!r}} is not known here."
        raise UnknownArchitecture(said("plan.architecture", template, architecture=architecture))
    return family


def _windowed(family: Family, index: int) -> bool:
    every = family.window_every
    return every is not None and index % every < every - 1


# From a file


def anatomy_of_header(header: GgufHeader, tensors: Iterable[TensorInfo] | None = None) -> Anatomy:
    """Exact; ``tensors`` are those of all parts, where the model is split.

    Raises `UnknownArchitecture`, and `InvalidModelFile` for arrays that cannot be read.
    """
    family = _family(header.architecture)
    numbers = _Numbers(header)
    infos = tuple(header.tensors if tensors is None else tensors)
    named = {info.name: info for info in infos}
    lookup, output = named.get("token_embd.weight"), named.get("output.weight")
    if lookup is None:
        raise _lacking("token_embd.weight")
    # The last blocks of some files guess ahead; llama.cpp leaves them on the disk.
    count = numbers.one("block_count") - numbers.one("nextn_predict_layers", 0)
    blocks = _blocks(infos, count)
    used = numbers.one("expert_used_count", 0)
    return Anatomy(
        architecture=family.name,
        exact=True,
        context=header.context_length,
        embedding=numbers.one("embedding_length"),
        feed_forward=max((_width(info, used) for info in infos), default=0),
        vocabulary=lookup.shape[-1],
        layers=tuple(_layer(block, family, numbers, i) for i, block in enumerate(blocks)),
        output=_weights(output or lookup),
        lookup=_weights(lookup),
        tied=output is None,
        entries=_count(header, "tokens") + _count(header, "merges"),
        experts=numbers.one("expert_count", 0),
        experts_used=used,
    )


@dataclass(frozen=True)
class _Numbers:
    """The architecture's numbers in a header."""

    header: GgufHeader

    def one(self, name: str, default: int | None = None) -> int:
        return self.at(name, 0, default)

    def at(self, name: str, layer: int, default: int | None = None) -> int:
        """Of one layer, where a file gives one number a layer."""
        value = self.header.metadata.get(f"{self.header.architecture}.{name}")
        if isinstance(value, GgufArray):
            items = value.read()
            value = items[layer] if layer < len(items) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if default is None:
            raise _lacking(f"{self.header.architecture}.{name}")
        return default


def _lacking(what: str) -> UnknownArchitecture:
    return UnknownArchitecture(said("plan.lacking", f"{_CANNOT_TELL}: no {{what}}.", what=what))


def _count(header: GgufHeader, name: str) -> int:
    array = header.metadata.get(f"tokenizer.ggml.{name}")
    return array.count if isinstance(array, GgufArray) else 0


def _blocks(infos: Iterable[TensorInfo], count: int) -> list[list[TensorInfo]]:
    blocks: list[list[TensorInfo]] = [[] for _ in range(count)]
    for info in infos:
        first, _, rest = info.name.partition(".")
        number = rest.partition(".")[0]
        if first == "blk" and number.isdigit() and int(number) < count:
            blocks[int(number)].append(info)
    return blocks


def _weights(info: TensorInfo) -> Weights:
    rows = info.elements // max(1, info.shape[0])
    return Weights(info.type, info.nbytes, info.elements, rows)


def _is_matrix(info: TensorInfo) -> bool:
    return len(info.shape) > 1 and min(info.shape) > 1


def _is_experts(info: TensorInfo) -> bool:
    return "_exps." in info.name


def _width(info: TensorInfo, used: int) -> int:
    """Of a feed-forward's intermediate result."""
    if ".ffn_up" not in info.name or not _is_matrix(info):
        return 0
    return info.shape[1] * (used if _is_experts(info) else 1)


def _layer(block: list[TensorInfo], family: Family, numbers: _Numbers, index: int) -> Layer:
    matrices = [info for info in block if _is_matrix(info)]
    return Layer(
        attention=_attention(block, family, numbers, index),
        weights=by_type(_weights(info) for info in matrices if not _is_experts(info)),
        experts=by_type(_weights(info) for info in matrices if _is_experts(info)),
        vectors=sum(info.nbytes for info in block if not _is_matrix(info)),
        state=_state(block, numbers),
    )


def _attention(
    block: list[TensorInfo], family: Family, numbers: _Numbers, index: int
) -> Attention | None:
    names = {info.name.split(".")[2] for info in block if info.name.count(".") > 1}
    # A linear attention's ``attn_qkv`` feeds a state, not a cache.
    fused = "attn_qkv" in names and not any(name.startswith("ssm_") for name in names)
    if not (fused or names & {"attn_k", "attn_kv_a_mqa"}):
        return None
    heads = numbers.at("attention.head_count", index)
    head_dim = numbers.one("embedding_length") // max(1, heads)
    latent = numbers.one("attention.key_length_mla", 0) > 0
    window = numbers.one("attention.sliding_window", 0)
    return Attention(
        heads=heads,
        kv_heads=numbers.at("attention.head_count_kv", index, heads),
        key_dim=numbers.one("attention.key_length", head_dim),
        value_dim=0 if latent else numbers.one("attention.value_length", head_dim),
        window=window if window and _windowed(family, index) else None,
    )


def _state(block: list[TensorInfo], numbers: _Numbers) -> int:
    """Bytes a sequence's state takes in a recurrent layer, in 32-bit floats: the last inputs of a
    convolution, and the state itself."""
    if any(".shortconv." in info.name for info in block):
        return _F32 * numbers.one("embedding_length") * max(0, numbers.one("shortconv.l_cache") - 1)
    if not any(".ssm_" in info.name for info in block):
        return 0
    inner, state = numbers.one("ssm.inner_size"), numbers.one("ssm.state_size")
    groups = numbers.one("ssm.group_count", 0)
    convolution = max(0, numbers.one("ssm.conv_kernel") - 1) * (inner + 2 * groups * state)
    return _F32 * (convolution + inner * state)


# From a catalogue row

# What a mixture's name means: the usual type, and that of the tensors that get more (llama.cpp's
# ``llama-quant.cpp``): all values' and half of the down projections', and the output.
_MIXTURES: Mapping[str, tuple[TensorType, TensorType]] = {
    "Q2_K": (TensorType.Q2_K, TensorType.Q3_K),
    "Q3_K_M": (TensorType.Q3_K, TensorType.Q5_K),
    "Q4_K_S": (TensorType.Q4_K, TensorType.Q5_K),
    "Q4_K_M": (TensorType.Q4_K, TensorType.Q6_K),
    "Q4": (TensorType.Q4_K, TensorType.Q6_K),
    "Q5_K_M": (TensorType.Q5_K, TensorType.Q6_K),
    "Q6_K": (TensorType.Q6_K, TensorType.Q6_K),
    "Q4_0": (TensorType.Q4_0, TensorType.Q4_0),
    "Q8_0": (TensorType.Q8_0, TensorType.Q8_0),
    "F16": (TensorType.F16, TensorType.F16),
    "BF16": (TensorType.BF16, TensorType.BF16),
    "MXFP4": (TensorType.Q8_0, TensorType.Q8_0),  # the experts alone are MXFP4
}
_OUTPUT = {"Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q4", "Q5_K_M", "Q6_K", "Q4_0"}
# Rows that are no whole blocks of 256 get another type.
_UNEVEN = {
    TensorType.Q2_K: TensorType.Q4_0,
    TensorType.Q3_K: TensorType.Q4_0,
    TensorType.Q4_K: TensorType.Q5_0,
    TensorType.Q5_K: TensorType.Q5_1,
    TensorType.Q6_K: TensorType.Q8_0,
}


def anatomy_of_row(row: CatalogModel, file: CatalogFile) -> Anatomy:
    """From the numbers of a row and the name of a quantisation, scaled to the size of the file
    where that is known. Raises `UnknownArchitecture`."""
    return _estimate(row.architecture, file.quantisation, file.size)


def _estimate(numbers: Architecture, quantisation: str, size: int | None) -> Anatomy:
    family = _family(numbers.name)
    if quantisation not in _MIXTURES:
        template = f"{_CANNOT_TELL}: {{quantisation}} is not known here."
        raise UnknownArchitecture(
            said("plan.quantisation", template, quantisation=str(quantisation))
        )
    shape = _Shape.of(numbers, quantisation, family)
    lookup = shape.matrix(shape.embedding, shape.vocabulary, shape.usual)
    richer = TensorType.Q6_K if quantisation in _OUTPUT else shape.usual
    output = shape.matrix(shape.embedding, shape.vocabulary, richer)
    tied = _tied(numbers, shape, lookup)
    if tied:
        lookup = output
    whole = Anatomy(
        architecture=family.name,
        exact=False,
        context=numbers.context_length,
        embedding=shape.embedding,
        feed_forward=max(shape.feed_forward, shape.expert_feed_forward * shape.experts_used),
        vocabulary=shape.vocabulary,
        layers=tuple(shape.layer(index) for index in range(shape.layers)),
        output=output,
        lookup=lookup,
        tied=tied,
        # Byte-pair vocabularies come with a merge for nearly every token.
        entries=shape.vocabulary * (1 if family.name.startswith("gemma") else 2),
        experts=shape.experts,
        experts_used=shape.experts_used,
    )
    return whole if size is None else _scaled(whole, size / whole.bytes)


def _tied(numbers: Architecture, shape: _Shape, lookup: Weights) -> bool:
    """Where the row does not say: by which of the two the parameters are nearer to."""
    if numbers.tied_embeddings is not None:
        return numbers.tied_embeddings
    if shape.family.name.startswith("gemma"):
        return True
    if numbers.parameters is None:
        return False
    layers = [shape.layer(index) for index in range(shape.layers)]
    body = sum(w.elements for layer in layers for w in (*layer.weights, *layer.experts))
    return numbers.parameters < body + 1.5 * lookup.elements


@dataclass(frozen=True)
class _Shape:
    """A row's numbers, none of them missing."""

    family: Family
    attention: Attention
    layers: int
    embedding: int
    feed_forward: int
    vocabulary: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    query: int
    usual: TensorType
    richer: TensorType
    expert_type: TensorType

    @staticmethod
    def of(row: Architecture, quantisation: str, family: Family) -> _Shape:
        needed = (row.layers, row.embedding, row.heads, row.vocabulary)
        if None in needed or (row.feed_forward is None and row.expert_feed_forward is None):
            raise _lacking("complete set of numbers in its catalogue row")
        layers, embedding, heads, vocabulary = (number or 0 for number in needed)
        head_dim = row.head_dim or embedding // heads
        usual, richer = _MIXTURES[quantisation]
        attention = Attention(heads, row.kv_heads or heads, head_dim, head_dim, row.sliding_window)
        if row.kv_lora_rank:
            attention = Attention(heads, 1, row.kv_lora_rank + (row.qk_rope_head_dim or 0), 0)
        return _Shape(
            family=family,
            attention=attention,
            layers=layers,
            embedding=embedding,
            feed_forward=row.feed_forward or 0,
            vocabulary=vocabulary,
            experts=row.experts or 0,
            experts_used=row.experts_used or 0,
            expert_feed_forward=row.expert_feed_forward or 0,
            query=row.q_lora_rank or 0,
            usual=usual,
            richer=richer,
            expert_type=TensorType.MXFP4 if quantisation == "MXFP4" else usual,
        )

    def matrix(self, inputs: int, outputs: int, kind: TensorType, count: int = 1) -> Weights:
        """``count`` of them, each with a row of ``inputs`` for every output."""
        if inputs % kind.block_size:
            kind = _UNEVEN.get(kind, kind)
        elements = count * inputs * outputs
        size = elements // kind.block_size * kind.block_bytes
        return Weights(kind, size, elements, count * outputs)

    def layer(self, index: int) -> Layer:
        """Of a mixture of experts every layer is taken to be one."""
        richer = self.richer if _more_bits(index, self.layers) else self.usual
        windowed = _windowed(self.family, index)
        attention = Attention(
            self.attention.heads,
            self.attention.kv_heads,
            self.attention.key_dim,
            self.attention.value_dim,
            self.attention.window if windowed else None,
        )
        width = self.expert_feed_forward if self.experts else self.feed_forward
        count = self.experts or 1
        down = richer if self.expert_type is self.usual else self.expert_type
        feed = (
            self.matrix(self.embedding, 2 * width, self.expert_type, count),
            self.matrix(width, self.embedding, down, count),
        )
        return Layer(
            attention=attention,
            weights=by_type((*self._attention_weights(), *(() if self.experts else feed))),
            experts=by_type(feed) if self.experts else (),
        )

    def _attention_weights(self) -> tuple[Weights, ...]:
        it, width = self.attention, self.embedding
        if it.value_dim:
            return (
                self.matrix(width, it.heads * it.key_dim + it.keys, self.usual),
                self.matrix(width, it.values, self.richer),
                self.matrix(it.heads * it.value_dim, width, self.usual),
            )
        # Latent: down and up for queries, down for keys, up and out per head, of some 128 each.
        query = self.query or width
        return (
            self.matrix(width, query + it.key_dim, self.usual),
            self.matrix(query, it.heads * 192, self.usual),
            self.matrix(it.key_dim - it.key_dim % 256, it.heads * 256, self.usual),
            self.matrix(it.heads * 128, width, self.usual),
        )


def _more_bits(index: int, layers: int) -> bool:
    """Which layers' down projections get the better type (``use_more_bits`` of llama.cpp)."""
    eighth = layers // 8
    return index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2


def _scaled(whole: Anatomy, factor: float) -> Anatomy:
    def part(weights: Weights) -> Weights:
        size = round(weights.bytes * factor)
        return Weights(weights.type, size, weights.elements, weights.rows)

    return Anatomy(
        architecture=whole.architecture,
        exact=False,
        context=whole.context,
        embedding=whole.embedding,
        feed_forward=whole.feed_forward,
        vocabulary=whole.vocabulary,
        layers=tuple(
            Layer(
                layer.attention,
                tuple(part(w) for w in layer.weights),
                tuple(part(w) for w in layer.experts),
            )
            for layer in whole.layers
        ),
        output=part(whole.output),
        lookup=part(whole.lookup),
        tied=whole.tied,
        entries=whole.entries,
        experts=whole.experts,
        experts_used=whole.experts_used,
    )
