"""What freehold reads of a GGUF file, made for a model that has none: its vocabulary, its chat
template and its numbers, and no weights.

Text is made into tokens by llama.cpp's tokeniser on every engine. Its rules and those of
``tokenizer.json`` are the same where both know the rule by name; what is not known to be the same
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freehold.domain.errors import InvalidModelFile, UnsupportedFile
from freehold.weights.checkpoint import CONFIG, TEMPLATE, TOKENISER, TOKENISER_CONFIG
from freehold.weights.gguf_types import ValueType
from freehold.weights.gguf_writer import Array, Value, write_gguf

NAME = "freehold-vocabulary.gguf"
_HINT = "A GGUF conversion of this model runs; so does freehold convert REF --to safetensors."
_MAX_TOKENS = 1_000_000

_ARCHITECTURES = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
}
# How text is cut before it is merged: the pattern, and what llama.cpp calls it.
_CUTS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write(path: Path, texts: Mapping[str, Any], template: str | None, name: str) -> None:
    """``texts`` are the JSON files. Raises `UnsupportedFile` or `InvalidModelFile`."""
    config = texts[CONFIG]
    if not isinstance(config, dict) or not isinstance(texts[TOKENISER], dict):
        raise InvalidModelFile(f"{CONFIG} or {TOKENISER} is no object.")
    about = texts.get(TOKENISER_CONFIG)
    try:
        metadata = {
            **_numbers(config, name),
            **_vocabulary(texts[TOKENISER], config, about if isinstance(about, dict) else {}),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidModelFile(f"{CONFIG} or {TOKENISER} makes no sense: {error}.") from error
    written = template if template is not None else _template(about)
    if written is not None:
        metadata["tokenizer.chat_template"] = written
    write_gguf(path, metadata, ())


def _template(about: object) -> str | None:
    found = about.get("chat_template") if isinstance(about, dict) else None
    if isinstance(found, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _numbers(config: Mapping[str, Any], name: str) -> dict[str, Value]:
    stated = config.get("architectures") or [None]
    kind = _ARCHITECTURES.get(str(stated[0]))
    if kind is None:
        raise UnsupportedFile(
            f"Models of the kind {str(stated[0])[:60]} cannot be taken from safetensors yet.",
            hint=_HINT,
        )
    heads = int(config["num_attention_heads"])
    width = int(config["hidden_size"])
    rope = config.get("rope_parameters")
    theta = config.get("rope_theta") or (rope or {}).get("rope_theta") or 10000.0
    head = int(config.get("head_dim") or width // heads)
    return {
        "general.architecture": kind,
        "general.name": name,
        f"{kind}.context_length": int(config["max_position_embeddings"]),
        f"{kind}.embedding_length": width,
        f"{kind}.block_count": int(config["num_hidden_layers"]),
        f"{kind}.feed_forward_length": int(config["intermediate_size"]),
        f"{kind}.attention.head_count": heads,
        f"{kind}.attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        f"{kind}.attention.key_length": head,
        f"{kind}.attention.value_length": head,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{kind}.rope.freq_base": float(theta),
        f"{kind}.rope.dimension_count": head,
        f"{kind}.vocab_size": int(config["vocab_size"]),
    }


def _vocabulary(
    tokeniser: Mapping[str, Any], config: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Value]:
    model = tokeniser["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise _unread("it does not merge bytes (BPE)")
    rows = {int(number): text for text, number in model["vocab"].items()}
    kinds = {
        number: _UNUSED if text == _padding(number) else _NORMAL for number, text in rows.items()
    }
    for added in tokeniser.get("added_tokens") or ():
        rows[int(added["id"])] = added["content"]
        kinds[int(added["id"])] = _CONTROL if added["special"] else _USER_DEFINED
    size = max(int(config["vocab_size"]), max(rows) + 1)
    if size > _MAX_TOKENS or min(rows) < 0:
        raise InvalidModelFile(f"{TOKENISER} has {size:,} tokens.")
    tokens = [rows.get(number, _padding(number)) for number in range(size)]
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    found: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _cut(tokeniser),
        "tokenizer.ggml.tokens": Array(ValueType.STRING, tokens),
        "tokenizer.ggml.token_type": Array(
            ValueType.INT32, [kinds.get(number, _UNUSED) for number in range(size)]
        ),
        "tokenizer.ggml.merges": Array(ValueType.STRING, merges),
        "tokenizer.ggml.add_bos_token": bool(about.get("add_bos_token") or _begins(tokeniser)),
    }
    numbers = {text: number for number, text in rows.items()}
    for key, name in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
        token = _token(about.get(name), config.get(f"{name}_id"), numbers)
        if token is not None:
            found[f"tokenizer.ggml.{key}_token_id"] = token
    return found


def _padding(number: int) -> str:
    """What a row is called that no text becomes."""
    return f"[PAD{number}]"


def _token(spelled: object, stated: object, numbers: Mapping[str, int]) -> int | None:
    """What the tokeniser says goes before what the model says."""
    text = spelled.get("content") if isinstance(spelled, dict) else spelled
    if isinstance(text, str) and text in numbers:
        return numbers[text]
    first = stated[0] if isinstance(stated, list) and stated else stated
    return first if type(first) is int and first >= 0 else None


def _cut(tokeniser: Mapping[str, Any]) -> str:
    if tokeniser.get("normalizer") not in (None, {"type": "NFC"}):
        raise _unread("it changes texts first")
    before = tokeniser.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers") or [before]
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps]
    name = _CUTS.get(str(patterns[0])) if patterns else None
    if kinds != ["Split", "ByteLevel"] or name is None or steps[1].get("use_regex"):
        raise _unread("it cuts texts by a rule that is not known here")
    return name


def _begins(tokeniser: Mapping[str, Any]) -> bool:
    """Whether a text gets a token before it, by its template (Llama 3)."""
    after = tokeniser.get("post_processor") or {}
    steps = after.get("processors") or [after]
    return any(
        "SpecialToken" in piece
        for step in steps
        if step.get("type") == "TemplateProcessing"
        for piece in (step.get("single") or ())[:1]
    )


def _unread(why: str) -> UnsupportedFile:
    return UnsupportedFile(f"This model's tokeniser cannot be used here: {why}.", hint=_HINT)


def template_of(files: Mapping[str, Path]) -> str | None:
    """The template that lies beside, where it is a file of its own."""
    path = files.get(TEMPLATE)
    return None if path is None else path.read_text("utf-8", "replace")
