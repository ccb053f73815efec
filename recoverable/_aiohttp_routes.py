"""How the handlers of aiohttp's routes are replaced by what calls them: `recoverable.aiohttp.setup` has it done."""

from __future__ import annotations

from abc import ABCMeta
from typing import TYPE_CHECKING, Any, Final

from aiohttp import abc, web, web_urldispatcher

from recoverable._aiohttp import HEADS_WAIT, adapter
from recoverable._native.runtime import Served, serving

if TYPE_CHECKING:
    from recoverable.arena import Arena

__all__ = ["ROUTES_CAN_BE_SERVED", "goes_straight", "serve"]


def serve(route: web.AbstractRoute, arena: Arena, known: dict[Any, Any], straight_from: web.Application | None) -> bool:
    """Have a route call its handler by way of us. Return False if it can't be replaced.

    aiohttp asks `route.handler` for each request, and so do the program's middlewares; there is no public way to set it. What
    stands there now calls the handler, and is like it in whatever else it is asked. A View stays a class.

    Args:
        route: The route.
        arena: Its application's.
        known: What stands for which handler: one for all alike routes that share it.
        straight_from: The application that is set up, if its requests come straight from the router to its routes.
    """
    handler: Any = route.handler
    if type(handler) is Served or (isinstance(handler, type) and "_recoverable_view" in vars(handler)):
        return True  # the application was started before
    placeholders = type(route.resource) is not web.PlainResource
    if getattr(route, "_expect_handler", None) is not _EXPECTS:
        straight_from = None
    alike = id(handler), placeholders, straight_from is None
    served = known.get(alike)
    if served is None:
        served = Served(handler, arena, adapter.requests, straight_from, placeholders)
        if isinstance(handler, type) and issubclass(handler, abc.AbstractView):
            served = _served_view(handler, served)
        known[alike] = served
    route._handler = served
    return route.handler is served


_RESOURCES: Final = {
    web.PlainResource,
    web.DynamicResource,
    web.StaticResource,
    web_urldispatcher.PrefixedSubAppResource,
}
_EXPECTS: Final = getattr(web_urldispatcher, "_default_expect_handler", None)


def goes_straight(app: web.Application) -> bool:
    """Return whether nothing of the program's sees a request between aiohttp's parser and a route of that application.

    Then it is known what the request was like when its handler was called, and it need not be looked at.
    """
    return (
        HEADS_WAIT  # an older aiohttp counts what it sends for "Expect: 100-continue"
        and _EXPECTS is not None
        and type(app) is web.Application
        and type(app.router) is web.UrlDispatcher
        and not app.middlewares
        and all(type(resource) in _RESOURCES for resource in app.router.resources())
    )


class _Shield:
    """Stands before a View in the bases of a class that we make, so that the View's `__init_subclass__` is not called for it."""

    def __init_subclass__(cls) -> None:
        pass


def _served_view(view: Any, served: Served) -> Any:
    """Make a subclass of a View, whose instances await the View's own handling by way of us."""

    class Handling:
        """What awaiting an instance of the View does."""

        def __init__(self, instance: Any) -> None:
            self.instance = instance

        def __await__(self) -> Any:
            return view.__await__(self.instance)

    namespace = {
        "__await__": lambda self: serving(served, self.request, Handling(self)),
        "__doc__": view.__doc__,
        "__module__": view.__module__,
        "__qualname__": view.__qualname__,
        "__wrapped__": view,
        "_recoverable_view": True,
    }
    # The metaclass's own: what a program's metaclass does with new classes is for the program's.
    return ABCMeta.__new__(type(view), view.__name__, (_Shield, view), namespace)


def _routes_can_be_served() -> bool:
    async def probe(request: web.Request) -> web.Response:
        raise NotImplementedError

    route, served = web.UrlDispatcher().add_get("/", probe), Served(probe, None, adapter.requests)
    try:
        route._handler = served
    except AttributeError:
        return False
    return route.handler is served


#: Whether handlers of routes can be had; else it takes a middleware.
ROUTES_CAN_BE_SERVED: Final = _routes_can_be_served()
