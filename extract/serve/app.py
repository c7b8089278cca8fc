"""The application: routes, errors, documents, metrics, and the page's files."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Histogram
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from extract.clickhouse.settings import ClickHouseSettings
from extract.serve.documents import install_document, reference_page
from extract.serve.errors import ApiError
from extract.serve.guard import Guard
from extract.serve.keys import KeyRing
from extract.serve.listing import answered, etag
from extract.serve.metrics import MEDIA_TYPE, StreamGauges
from extract.serve.parameters import require_known_parameters
from extract.serve.reader import Reader
from extract.serve.routes import instruments, operation, volatility
from extract.serve.routes.shared import TheService, errors
from extract.serve.service import Service

log = logging.getLogger("extract.serve")

PAGE = Path(__file__).with_name("page")
INSTALLED = "public, max-age=3600"
"""Cache-Control of files of the installation."""


def create_app(
    reader: Reader, settings: ClickHouseSettings, *, keys: KeyRing | None = None, is_loopback: bool = True
) -> FastAPI:
    """The ASGI application. It closes `reader` when it ends. `is_loopback`: answer requests for loopback names only."""
    registry = CollectorRegistry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reader.seconds = Histogram(
            "tape_query_seconds", "Seconds of queries to ClickHouse.", registry=registry
        )
        app.state.service = Service(reader, settings)
        try:
            yield
        finally:
            reader.close()

    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(require_known_parameters)],
        redirect_slashes=False,
    )
    for router in (operation.public, operation.router, instruments.router, volatility.router):
        app.include_router(router)
    _add_metrics(app, StreamGauges(registry))
    install_document(app)
    _add_documents(app)
    _add_page(app)
    _add_error_handlers(app)
    app.add_middleware(Guard, keys=keys, is_loopback=is_loopback, registry=registry)
    return app


def _add_metrics(app: FastAPI, gauges: StreamGauges) -> None:
    ok = {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get(
        "/metrics",
        tags=["Operation"],
        operation_id="getMetrics",
        summary="Get metrics",
        response_class=Response,
        responses={200: ok, **errors(422)},
    )
    async def get_metrics(service: TheService) -> Response:
        """Requests, queries and the state of each stream, in the text format of Prometheus."""
        return Response(
            await gauges.text(service), headers={"Cache-Control": "no-store", "Content-Type": MEDIA_TYPE}
        )


def _add_documents(app: FastAPI) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    async def get_document(request: Request) -> Response:
        content = msgspec.json.encode(app.openapi())
        return answered(request, content, {"ETag": etag(content)}, INSTALLED)

    @app.get("/docs", include_in_schema=False)
    async def get_reference() -> Response:
        return Response(
            reference_page(app.openapi()), headers={"Cache-Control": INSTALLED}, media_type="text/html"
        )


def _add_page(app: FastAPI) -> None:
    """The files of the folder `page` at `/`, and the charts' library out of its package."""
    page = StaticFiles(directory=PAGE, check_dir=False)

    @app.get("/assets/plotly.min.js", include_in_schema=False)
    async def get_plotly(request: Request) -> Response:
        spec = find_spec("plotly")
        if spec is None or spec.origin is None:
            raise ApiError(
                "not_found", "The charts need the package plotly: pip install 'deribit-tape[serve]'."
            )
        return await _file(
            StaticFiles(directory=Path(spec.origin).parent / "package_data"), "plotly.min.js", request
        )

    @app.get("/", include_in_schema=False)
    async def get_page(request: Request) -> Response:
        return await _file(page, "index.html", request)

    @app.get("/{file}", include_in_schema=False)
    async def get_page_file(request: Request, file: str) -> Response:
        return await _file(page, file, request)


async def _file(folder: StaticFiles, name: str, request: Request) -> Response:
    """A file of the installation, or 304; it is asked for again with its ETag."""
    response = await folder.get_response(name, request.scope)
    response.headers["Cache-Control"] = "no-cache"
    return response


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def answer_api_error(request: Request, error: ApiError) -> Response:
        if error.__cause__ is not None:
            log.warning("%s %s: %s", request.method, request.url.path, error.__cause__)
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def answer_validation_error(request: Request, error: RequestValidationError) -> Response:
        [first, *_] = error.errors()
        place, name = (*first["loc"], "")[:2]
        return ApiError(
            "invalid_parameter", f"{name} in the {place} is not valid: {first['msg']}."
        ).response()

    @app.exception_handler(HTTPException)
    async def answer_http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            return ApiError(
                "method_not_allowed",
                f"{request.method} is not possible here, only {allowed}.",
                {"Allow": allowed},
            ).response()
        return ApiError("not_found", f"There is no {request.url.path}; /docs lists the routes.").response()

    @app.exception_handler(Exception)
    async def answer_unexpected_error(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return ApiError("internal", "The server failed; its log has the reason.").response()
