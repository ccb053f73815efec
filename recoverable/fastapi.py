"""recoverable on FastAPI: `setup(app, arena)`, and `Depends(transaction)`.

FastAPI makes a response of what a path function returns, by a response model, and calls what it depends on before. So where such a
function is decorated, or something depends on `transaction`, its whole route runs as one transaction, with the options of the
decorator: dependencies, the function, the model. The function is a part of that. The response is sent after the commit, and so are
background tasks run, streams sent, and dependencies of the request ended.

A run that is rolled back ends its dependencies with what it has failed with, before the next one begins its own.

Routes are replaced when the application starts up. What they say of themselves, and OpenAPI of them, stays as it is.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import warnings
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal

import fastapi.routing
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import FastAPIError, RequestValidationError
from fastapi.responses import JSONResponse, Response

from recoverable import _fastapi_json, _registry, _starlette, asgi, outcome, runner, web
from recoverable._asgi import Exchange
from recoverable._native.runtime import (
    Handler,
    PlainHandler,
    current_transaction,
    running_request,
    share_transaction,
    unshare_transaction,
)
from recoverable.callbacks import name_of
from recoverable.errors import ConflictError, NoTransactionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from recoverable.arena import Arena
    from recoverable.capsules import Capsules
    from recoverable.faults import Rule
    from recoverable.outcome import Durability

    RouteHandler = Callable[[Any], Awaitable[Any]]

__all__ = ["setup", "transaction"]


class _Done:
    """What a run has come to, where `commit_if` is asked for what the function has returned."""

    __slots__ = ("response", "returned")

    def __init__(self, response: Any, returned: Any) -> None:
        self.response, self.returned = response, returned


class _Adapter(web.AnswerAdapter):
    """What FastAPI raises where a request is not valid is an answer, as an HTTPException is."""

    responses = (_Done,)
    errors = (RequestValidationError,)

    def status_of(self, answer: _Done | RequestValidationError) -> int | None:
        return web.status_of(answer.response) if isinstance(answer, _Done) else 422

    def lose_tasks(self, answer: _Done) -> None:
        web.lose_tasks(answer.response)


web.register(_Adapter())
_fastapi_json.teach()

_REQUEST, _FUNCTION = "fastapi_inner_astack", "fastapi_function_astack"  # where a scope has what ends dependencies


def setup(
    app: fastapi.FastAPI,
    arena: Arena,
    *,
    protect: Literal["decorated", "all"] = "decorated",
    step_limit: float | None = None,
    durable: Durability | None = None,
    faults: str | Iterable[Rule] | None = None,
    allow_faults: bool = False,
    faults_seed: int | None = None,
    capsules: Capsules | None = None,
    body_limit: int | str = "1 MiB",
) -> None:
    """Make an application's path functions use the arena, and close it after the application's own shut-down.

    All is as by `recoverable.asgi.setup`; besides, a decorated path function's transaction is all of its route: what it depends on,
    and its response model. Call it after the application's own middlewares are added; routes may be added until it starts up.

    Args:
        app: The application; those that are mounted in it, and are not set up themselves, find the arena through it.
        arena: An open arena.
        protect: "decorated" runs as transactions the routes whose path functions are decorated with `@recoverable`, or that have
            something depend on `transaction`; "all": each request, middlewares included.
        step_limit: As for `recoverable.asgi.Middleware`.
        durable: As there.
        faults: As there.
        allow_faults: As there.
        faults_seed: As there.
        capsules: As there.
        body_limit: As for `recoverable.asgi.Middleware`.

    Raises:
        TypeError: It is no application of FastAPI.
        JournalError: `durable` is "journal" or "disk", and the arena was opened without a journal.
        ArenaOptionError: An option is invalid, or the application has an arena already.
        FaultsNotAllowedError: Faults were asked for, and `allow_faults` is false.
        FaultSyntaxError: The text of `faults` is wrong.
    """
    if not isinstance(app, fastapi.FastAPI):
        raise TypeError(
            f"app={app!r} is no fastapi.FastAPI: for others there is recoverable.asgi.setup(). Nothing was changed."
        )
    asgi.prepare(
        app,
        arena,
        functools.partial(_serve_routes, app),
        protect=protect,
        step_limit=step_limit,
        durable=durable,
        faults=faults,
        allow_faults=allow_faults,
        faults_seed=faults_seed,
        capsules=capsules,
        body_limit=body_limit,
    )


async def transaction() -> AsyncIterator[Any]:
    """Give the root of the application's arena, in a transaction that is all of the route: `Depends(transaction)`.

    Raises:
        NoTransactionError: The application has no arena, or this is a WebSocket, whose unit is a message.
    """
    here = running_request.get()
    if here is None or current_transaction(here.arena.native) is None:
        raise NoTransactionError(
            "Depends(recoverable.fastapi.transaction) is for routes of an application with an arena, not for WebSockets. "
            "Nothing was run. In a WebSocket await arena.run(fn, ...) for each message; else call "
            "recoverable.fastapi.setup(app, arena) before the application starts up."
        )
    yield here.arena.root


# -- routes ---------------------------------------------------------------------------------------------------------------


def _serve_routes(app: fastapi.FastAPI) -> None:
    """Have the routes of an application served, and those of what is mounted in it and has no arena of its own."""
    served: list[Any] = []
    for each in _starlette.applications(app, asgi.set_up):
        for route in _starlette.routes_of(each):
            if isinstance(route, fastapi.routing.APIRoute) and not hasattr(route.get_route_handler, "_recoverable"):
                served.append(route)
                _serve(route)
                continue
            router: Any = getattr(route, "original_router", None)
            if hasattr(router, "_mark_routes_changed"):
                router._mark_routes_changed()  # what it has made of its routes is made again
    _tell_misplaced(served)


def _tell_misplaced(routes: list[Any]) -> None:
    """Warn of functions that are decorated above their routes' decorators, which have them as they were before."""
    decorated = [found[0].fn for route in routes if (found := decorated_by(route.endpoint)) is not None]
    for route in routes:
        fn = route.endpoint
        if (
            inspect.isfunction(fn)
            and fn in _registry.decorated
            and fn not in decorated
            and not _depends(route.dependant)
        ):
            warnings.warn(
                f"{route.path} calls {name_of(fn)} as it was before it was decorated with @recoverable: it runs in no transaction "
                "there. Write @recoverable below the route's decorator.",
                RuntimeWarning,
                stacklevel=2,
            )


def _serve(route: Any) -> None:
    """Have a route's handler be one transaction, if there is to be any."""
    original, decorated = route.get_route_handler, decorated_by(route.endpoint)

    def get_route_handler() -> RouteHandler:
        included = getattr(fastapi.routing, "_effective_route_context_var", None)  # of a router that is included
        context = None if included is None else included.get()
        target = context if context is not None and context.original_route is route else route
        dependant = target.dependant
        if decorated is None:
            return _whole(original(), route.endpoint, None) if _depends(dependant) else original()
        handler, fn = decorated
        own = copy.copy(dependant)
        own.call = _remembering(route.endpoint, fn) if _asks_for_values(handler.options) else fn
        target.dependant = own
        try:
            return _whole(original(), route.endpoint, handler)
        finally:
            target.dependant = dependant

    get_route_handler._recoverable = True  # type: ignore[attr-defined]
    route.get_route_handler = get_route_handler
    if decorated is not None or _depends(route.dependant):
        served: Any = fastapi.routing.request_response(get_route_handler())
        limit = getattr(fastapi.routing, "wrap_app_with_body_limit", None)
        route.app = served if limit is None else limit(served, route.max_body_size)


def decorated_by(endpoint: Any) -> tuple[Any, Any] | None:
    """Return what `@recoverable` has made, and what a call of the endpoint would be without it; None: it is not decorated."""
    if type(endpoint) in (Handler, PlainHandler):
        return endpoint, endpoint.fn
    if isinstance(endpoint, functools.partial) and (inner := decorated_by(endpoint.func)) is not None:
        return inner[0], functools.partial(inner[1], *endpoint.args, **endpoint.keywords)
    if inspect.isfunction(endpoint) and (inner := decorated_by(getattr(endpoint, "__wrapped__", None))) is not None:
        return inner[0], endpoint  # another decorator in between; what it calls joins
    if type(endpoint) is MethodType and (inner := decorated_by(endpoint.__func__)) is not None:
        return inner[0], MethodType(inner[1], endpoint.__self__)
    return None


def _depends(dependant: Any) -> bool:
    return any(each.call is transaction or _depends(each) for each in dependant.dependencies)


# -- a call of one --------------------------------------------------------------------------------------------------------


class _Call:
    """The last run of a path function whose options ask for what it is given, or returns.

    Attributes:
        given: Its arguments, or None: it has not come so far.
        returned: What it has returned.
    """

    __slots__ = ("given", "returned")

    def __init__(self) -> None:
        self.given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.returned: Any = None


_running: ContextVar[_Call] = ContextVar("recoverable.fastapi")


def _asks_for_values(options: outcome.Options) -> bool:
    """Return whether something is to be done with what the function itself is given, and returns."""
    return options.decide is not web.commits or options.fallback is not None


def _remembering(endpoint: Any, fn: Any) -> Any:
    """Make a path function that tells its `_Call` of its arguments and its result."""
    wraps = functools.wraps(endpoint)
    if runner.is_coroutine_function(fn):

        async def remembering(*args: Any, **kwargs: Any) -> Any:
            call = _running.get()
            call.given = args, kwargs
            call.returned = await fn(*args, **kwargs)
            return call.returned
    else:

        def remembering(*args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]  # in a thread
            call = _running.get()
            call.given = args, kwargs
            call.returned = fn(*args, **kwargs)
            return call.returned

    return wraps(remembering)


def _options(options: outcome.Options) -> outcome.Options:
    """Return the options of a route for those of its function."""
    if not _asks_for_values(options):
        return options
    decide, fallback = options.decide, options.fallback

    def decides(result: Any, error: BaseException | None) -> object:
        return decide(None if result is None else result.returned, error)

    async def falls_back(failure: BaseException, request: Any) -> Any:
        assert fallback is not None
        await _ends(request).__aexit__(type(failure), failure, failure.__traceback__)
        call = _running.get()
        if call.given is None:  # it has failed before the function was called, which alone knows what that takes
            raise failure
        args, kwargs = call.given
        value = fallback(failure, *args, **kwargs)
        if inspect.isawaitable(value):
            value = await value
        return _Done(value if isinstance(value, Response) else JSONResponse(jsonable_encoder(value)), value)

    within = options.within
    return replace(
        options,
        decide=decide if decide is web.commits else decides,
        fallback=None if fallback is None else falls_back,
        within=within and replace(within, decide=decide if decide is web.commits else decides),
    )


def _whole(handler: RouteHandler, endpoint: Any, decorated: Any) -> RouteHandler:
    """Make a route's handler that runs as one transaction, with the options of its function if that is decorated."""
    options = outcome.DEFAULT if decorated is None else decorated.options
    values = _asks_for_values(options)

    async def run(request: Any) -> Any:
        here = current_transaction()
        if here is not None and here.attempt > 1:  # where the run before had returned, its dependencies have not ended
            lost = ConflictError("the run that had begun this has lost a conflict, and runs again")
            # A dependency may make another error of it, which is as little the end.
            with contextlib.suppress(Exception):
                await _ends(request).__aexit__(ConflictError, lost, None)
        if values:
            _running.get().given = None
        swallowed: BaseException | None = None
        token = share_transaction()  # functions in threads are in it, too
        functions = _ends(request, _FUNCTION)
        try:
            try:
                response = await handler(request)
            except BaseException as error:
                if not await functions.__aexit__(type(error), error, error.__traceback__):
                    raise
                swallowed = error
            else:
                if getattr(functions, "_exit_callbacks", True):  # most have none, and to find that out there takes long
                    await functions.__aexit__(None, None, None)
                return _Done(response, _running.get().returned) if values else response
        except BaseException as error:
            if not await _ends(request).__aexit__(type(error), error, error.__traceback__):
                raise
            swallowed = error
        finally:
            unshare_transaction(token)
        await _ends(request).aclose()
        raise FastAPIError(
            "No response: a dependency with yield has caught what its route raised, and has not raised it again; it was rolled back"
        ) from swallowed

    run.whole_of = endpoint  # type: ignore[attr-defined]  # what a capsule calls it by
    native = None if decorated is None else decorated.arena
    whole = runner.transactional(run, name_of(endpoint), _options(options), native)

    async def serve(request: Any) -> Any:
        here = running_request.get()
        if decorated is None and (here is None or not isinstance(here.request, Exchange)):
            return await handler(
                request
            )  # of an application that has the same router, and is not set up: the dependency says so
        token = _running.set(_Call()) if values else None
        try:
            done = await whole(request)
        except BaseException as error:  # of the commit, perhaps
            await _ends(request).__aexit__(type(error), error, error.__traceback__)
            raise
        finally:
            if token is not None:
                _running.reset(token)
        return done.response if values else done

    return serve


def _ends(request: Any, name: str = _REQUEST) -> contextlib.AsyncExitStack:
    """Return what ends the dependencies of a request, after each run. FastAPI does so too, in the end, and finds it empty then."""
    stack: contextlib.AsyncExitStack = request.scope.get(name) or request.scope.setdefault(
        name, contextlib.AsyncExitStack()
    )
    return stack
