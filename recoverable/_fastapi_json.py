"""Encoding containers that path functions return: FastAPI serializes them like the Python values that they hold.

FastAPI looks up an encoder by class, and pydantic a serializer. Neither knows our containers, so they would fall back to `dict()`,
which makes an empty List `{}` and a list of pairs an object.
"""

from __future__ import annotations

from typing import Any

import fastapi.encoders
from pydantic_core import SchemaSerializer, core_schema

from recoverable import containers
from recoverable._native.runtime import Container

__all__ = ["teach"]


def teach() -> None:
    """Have FastAPI and pydantic know the containers."""
    as_python = core_schema.plain_serializer_function_ser_schema(_values)
    serializer = SchemaSerializer(core_schema.any_schema(serialization=as_python))
    classes: list[Any] = [each for name in containers.__all__ if isinstance(each := getattr(containers, name), type)]
    for cls in classes:
        if issubclass(cls, Container):
            cls.__pydantic_serializer__ = serializer  # records of the program inherit it
    fastapi.encoders.encoders_by_class_tuples[_encoded] = (Container,)


def _values(container: Any) -> Any:
    return container.to_python()


def _encoded(container: Any) -> Any:
    return fastapi.encoders.jsonable_encoder(container.to_python())
