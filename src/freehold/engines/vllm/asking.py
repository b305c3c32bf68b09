"""A request of ours in vLLM's words. Pure.

It goes to the route that takes and gives token ids: the prompt was rendered and tokenised by our
text child, and the answer's text is made here, so that a request means the same on every engine.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.engines.vllm.launch import MODEL
from freehold.text.token_table import TokenTable
from freehold.text.tools.grammar import for_vocabulary

_SEEDS = 1 << 31

GENERATE = "/inference/v1/generate"
EMBED = "/v1/embeddings"


def seeded(request: GenerateRequest) -> GenerateRequest:
    """With a seed: a fresh one where none was asked for, so that it can be told."""
    if request.sampling.seed is not None:
        return request
    seed = random.SystemRandom().randrange(_SEEDS)
    return replace(request, sampling=replace(request.sampling, seed=seed))


def require_sampled(sampling: Sampling) -> None:
    """Raise `InvalidRequest` for what vLLM's sampler does not know."""
    unknown = (
        ("typical_p", sampling.typical_p != 1.0),
        ("dry_multiplier", sampling.dry is not None and sampling.dry.multiplier != 0),
        ("repeat_last_n", sampling.penalty_window is not None),
    )
    for field, asked in unknown:
        if asked:
            raise InvalidRequest(
                f"vLLM does not know {field}.", field=field, hint="The llama.cpp engine does."
            )


def body(
    request: GenerateRequest,
    table: TokenTable,
    constraint: Constraint | None,
    adapter: str | None = None,
) -> dict[str, Any]:
    """What is posted. ``constraint`` is that of this phase of the answer, ``adapter`` what vLLM
    calls the one to apply.
    """
    return {
        "request_id": request.request_id,
        "model": adapter or MODEL,
        "token_ids": list(request.prompt),
        "sampling_params": sampling_params(request, table, constraint),
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": request.cache_scope,
    }


def of_prompt(
    request: GenerateRequest, table: TokenTable, adapter: str | None = None
) -> dict[str, Any]:
    """A request for a single token, of which only what it says of the prompt is wanted."""
    bare = Sampling(temperature=0.0, seed=0)
    one = replace(request, sampling=bare, max_tokens=1, constraint=None, top_logprobs=None)
    asked = body(replace(one, request_id=f"{request.request_id}-prompt"), table, None, adapter)
    asked["sampling_params"]["prompt_logprobs"] = request.prompt_logprobs
    del asked["stream_options"]
    return {**asked, "stream": False}


def embedding(request: EmbedRequest) -> dict[str, Any]:
    """Vectors as base64: nothing is lost in decimal figures, and it is a third of the bytes."""
    return {
        "model": MODEL,
        "request_id": request.request_id,
        "input": [list(tokens) for tokens in request.inputs],
        "encoding_format": "base64",
        "embed_dtype": "float32",
        "endianness": "little",
        "cache_salt": request.cache_scope,
    }


def sampling_params(
    request: GenerateRequest, table: TokenTable, constraint: Constraint | None
) -> dict[str, Any]:
    sampling = request.sampling
    told: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        "max_tokens": request.max_tokens,
        "stop_token_ids": list(table.ends),
        "detokenize": bool(sampling.stop),
    }
    if sampling.stop:  # the text is cut here; vLLM looks for them too, and so ends by itself
        told |= {"stop": list(sampling.stop), "skip_special_tokens": False}
    # Who asked for a certain form gets it, or an answer that is cut off: while its reasoning is
    # free, the turn may not end.
    free = constraint is None and request.constraint is not None
    if sampling.ignore_end or free:  # until then tokens that end the turn cannot be chosen
        told["min_tokens"] = request.max_tokens
    if sampling.logit_bias:
        told["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if request.top_logprobs is not None:
        told["logprobs"] = request.top_logprobs
    if constraint is not None:
        told["structured_outputs"] = structured(constraint, table)
    return told


def structured(constraint: Constraint, table: TokenTable) -> dict[str, Any]:
    """vLLM compiles it with the same library as our own worker. Its tokeniser has every mark that
    is one token as a token of its own, which matches no text.
    """
    match constraint.grammar:
        case Grammar.JSON_SCHEMA:
            return {"json": json.loads(constraint.text)}
        case Grammar.REGEX:
            return {"regex": constraint.text}
        case Grammar.LARK:
            return {"grammar": for_vocabulary(constraint.text, table.spelled)}
