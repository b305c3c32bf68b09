"""A model's weights in another form: GGUF to the safetensors that vLLM reads.

    room? ──▶ converted in vLLM's Python ──▶ headers read ──▶ hashed ──▶ blobs ──▶ lock ──▶ manifest

The manifest comes last. It names its parent, and so does its lock, which has the parent's licences.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import InvalidReference, UnsupportedFile
from freehold.engines.vllm.conversion import to_safetensors
from freehold.engines.vllm.installation import Place
from freehold.trust.derived import Making, list_derived
from freehold.weights import safetensors
from freehold.weights.derived import SAFETENSORS, as_safetensors, derived_reference
from freehold.weights.files import disk_full_is_ours, hash_file, require_room
from freehold.weights.library import Library, LocalModel
from freehold.weights.registry import Manifest, ModelFile

_BYTES = 2  # of a weight in bfloat16


@dataclass(frozen=True)
class Conversion:
    """``say`` is told each step; ``inherited`` is the environment the converter gets parts of."""

    library: Library
    model: LocalModel
    inherited: Mapping[str, str]
    say: Callable[[str], None]

    async def make(self) -> Manifest:
        """What was made earlier, or is made now. Raises `EngineNotInstalled`, `DiskFull`,
        `EngineError`, and `UnsupportedFile` for what came out and may not be run.
        """
        known = as_safetensors(self.library, self.model)
        if known is not None:
            return known
        place = Place.of(self.library.store.home)
        installed = place.require()
        if len(self.model.paths) > 1:
            raise InvalidReference(
                "A model in several files cannot be converted yet.",
                hint="Join its parts with llama.cpp's gguf-split --merge, and import the result.",
            )
        require_room(
            self.library.store.home,
            int(self.model.header.parameter_count * _BYTES * 1.1),
            subject=f"{self.model.name} as safetensors",
            hint="Free some space (`freehold prune` helps).",
        )
        store = self.library.store
        key = f"{self.model.digest[:16]}-{SAFETENSORS}"
        waiting = "Another command is converting it; waiting for that."
        with store.pulling(), store.partial(key, waiting=lambda: self.say(waiting)) as folder:
            known = as_safetensors(self.library, self.model)
            if known is not None:
                return known
            try:
                with disk_full_is_ours(store.home):
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(mode=0o700)
                    # Its name decides how it is read.
                    source = folder / "source.gguf"
                    source.symlink_to(self.model.paths[0])
                out = folder / "out"
                await to_safetensors(place, source, out, self.inherited, self.say)
                self.say("hashing")
                files = await asyncio.to_thread(self._adopt, out)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            reference = derived_reference(self.library.registry, self.model, SAFETENSORS)
            made = Making(reference, files, f"vLLM {installed.version}'s converter")
            return list_derived(self.library, self.model, made)

    def _adopt(self, out: Path) -> tuple[ModelFile, ...]:
        """The weights come first: they are what the digest means."""
        require_plain(out)
        weights = sorted(out.glob(f"*.{SAFETENSORS}"))
        if not weights:
            raise UnsupportedFile("The converter wrote no safetensors.", hint="See docs/vllm.md.")
        others = sorted(path for path in out.iterdir() if path not in weights)
        files = []
        for path in (*weights, *others):
            sha256, size = hash_file(path), path.stat().st_size
            if not self.library.store.has(sha256):
                self.library.store.adopt(path, sha256)
            files.append(ModelFile(path.name, size, sha256))
        return tuple(files)


def require_plain(folder: Path) -> None:
    """Raise `UnsupportedFile` or `InvalidModelFile` for anything but sound safetensors and the
    texts beside them: no code, and no configuration that names any.
    """
    for path in folder.iterdir():
        if path.suffix == f".{SAFETENSORS}":
            safetensors.read_header(path)
        elif path.suffix == ".json":
            try:
                said = json.loads(path.read_bytes())
            except ValueError as error:
                raise UnsupportedFile(
                    f"{path.name} is no JSON.", hint="See docs/vllm.md."
                ) from error
            if isinstance(said, dict) and "auto_map" in said:
                raise UnsupportedFile(
                    f"{path.name} names code to be run (auto_map).", hint="Freehold runs none."
                )
        elif path.suffix not in (".jinja", ".txt", ".model"):
            raise UnsupportedFile(f"{path.name} is no part of a model.", hint="See docs/vllm.md.")
