"""`/`: the built page, from the package's own data. It is read once, into memory.

Everything is answered from a table made at the start, so no address can lead out of the folder.
"""

from __future__ import annotations

import gzip
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

import freehold

FOLDER = Path(freehold.__file__).parent / "web_page"

# Nothing but our own files and the API. `data:` images are icons in the style sheet. Trusted
# Types: no script may write markup, save Svelte's own templates.
POLICY = "; ".join(
    (
        "default-src 'none'",
        *("script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        "require-trusted-types-for 'script'",
        "trusted-types svelte-trusted-html",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Vite puts a digest into the names of assets.
_FOR_EVER = "public, max-age=31536000, immutable"
_WORTH_PACKING = 1024

NOT_BUILT = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>freehold</title>'
    "<p>The page is not built in this clone: <code>make web</code> builds it (it needs Node). "
    "The API is described at <a href='/docs'>/docs</a>.</p></html>\n"
)


@dataclass(frozen=True)
class File:
    media_type: str
    data: bytes
    packed: bytes | None

    @classmethod
    def read(cls, path: Path) -> File:
        data = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        packed = gzip.compress(data, mtime=0) if len(data) > _WORTH_PACKING else None
        return cls(kind, data, packed)


def built(folder: Path = FOLDER) -> Mapping[str, File]:
    """The files of the page by their address; empty where it is not built."""
    if not (folder / "index.html").is_file():
        return {}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): File.read(path) for path in paths}


def page_router(files: Mapping[str, File]) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        """The page for people."""
        if "index.html" not in files:
            return HTMLResponse(NOT_BUILT, headers=HEADERS)
        return _told(files["index.html"], request, "no-cache")

    @router.get("/assets/{name:path}")
    async def asset(name: str, request: Request) -> Response:
        """A part of the page."""
        file = files.get(f"assets/{name}")
        if file is None:
            raise HTTPException(404)
        return _told(file, request, _FOR_EVER)

    return router


def _told(file: File, request: Request, cache: str) -> Response:
    headers = {**HEADERS, "Cache-Control": cache, "Vary": "Accept-Encoding"}
    if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            file.packed,
            media_type=file.media_type,
            headers={**headers, "Content-Encoding": "gzip"},
        )
    return Response(file.data, media_type=file.media_type, headers=headers)
