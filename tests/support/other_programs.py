"""Model stores laid out as Ollama, the Hugging Face libraries and LM Studio lay them out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def ollama_model(
    models: Path,
    name: str,
    content: bytes,
    *,
    claimed: str | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Add ``host/owner/name/tag`` and return its blob; ``extra`` maps layer kinds to contents.

    ``claimed`` is the digest the manifest and the blob's name state, when not the right one.
    """
    config = _ollama_blob(models, b'{"model_format":"gguf","model_family":"llama"}')
    layers = [_ollama_blob(models, content, claimed)]
    layers[0]["mediaType"] = "application/vnd.ollama.image.model"
    for kind, data in {"license": b"MIT", "template": b"{{ .Prompt }}", **(extra or {})}.items():
        layers.append(
            {**_ollama_blob(models, data), "mediaType": f"application/vnd.ollama.image.{kind}"}
        )
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {**config, "mediaType": "application/vnd.docker.container.image.v1+json"},
        "layers": layers,
    }
    path = models / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return models / "blobs" / str(layers[0]["digest"]).replace(":", "-")


def _ollama_blob(models: Path, content: bytes, claimed: str | None = None) -> dict[str, object]:
    digest = claimed or hashlib.sha256(content).hexdigest()
    path = models / "blobs" / f"sha256-{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def hub_cache_file(
    cache: Path,
    repository: str,
    file: str,
    content: bytes,
    *,
    revision: str = COMMIT,
    claimed: str | None = None,
) -> Path:
    """Add one file to a snapshot and return the link to its blob."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob = folder / "blobs" / (claimed or hashlib.sha256(content).hexdigest())
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    link = folder / "snapshots" / revision / file
    link.parent.mkdir(parents=True, exist_ok=True)
    depth = len(link.relative_to(folder).parts) - 1
    link.symlink_to(Path(*[".."] * depth, "blobs", blob.name))
    return link


def lm_studio_file(models: Path, repository: str, file: str, content: bytes) -> Path:
    """Add ``publisher/repository/file`` and return its path."""
    path = models / repository / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
