"""Annotations of a handler as real types: text evaluated, type variables of generic bases replaced."""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from echostream_derive import HandlerSpec, ListenerSpec, Scope, SignatureError, StreamSpec, fault

__all__ = ("Hints", "item_of")


class Hints:
    """Resolves the annotations of one function as seen from one class.

    Args:
        spec: what the function was described as.
        owner: the service class that it is served for; None for a free function.
        label: what error texts call it, such as ``orders.place``.
    """

    def __init__(self, spec: HandlerSpec | ListenerSpec | StreamSpec, owner: type | None, label: str) -> None:
        self._function: Callable[..., Any] = spec.function
        self._location = spec.location
        self._label = label
        members: dict[str, Any] = {}
        self._variables: Mapping[Any, Any] = {}
        if owner is not None:
            for cls in reversed(owner.__mro__):
                members.update(vars(cls))
            self._variables = _variables(owner, _definer(owner, spec))
        self._scope = Scope(members=members)

    def resolve(self, annotation: object, where: str) -> Any:
        """Return the type of an annotation; `where` names the parameter in the error text.

        Raises:
            SignatureError: it names something that does not exist.
        """
        try:
            found = self._scope.resolve(annotation, self._function)
        except NameError as error:
            raise self.fault(
                where,
                f"{_text(annotation)} names {error.name!r}, which cannot be seen from its module; "
                f"define or import {error.name} at module level, outside TYPE_CHECKING",
            ) from None
        except Exception as error:  # evaluating an annotation runs the user's code
            raise self.fault(where, f"{_text(annotation)} cannot be evaluated ({error}); write a type") from error
        return _replaced(found, self._variables)

    def fault(self, where: str, problem: str) -> SignatureError:
        """Build the error for one parameter or the result."""
        return fault(self._location, self._label, f"{where}: {problem}")


def item_of(annotation: object) -> Any:
    """Return X of a resolved ``AsyncIterator[X]``, or None where X is not said."""
    found = typing.get_args(annotation)
    return found[0] if found else None


def _definer(owner: type, spec: HandlerSpec | ListenerSpec | StreamSpec) -> type:
    """Return the class whose body holds the function."""
    return next((cls for cls in owner.__mro__ if vars(cls).get(spec.attribute) is spec.function), owner)


def _variables(owner: type, definer: type) -> Mapping[Any, Any]:
    """Return what the type variables of `definer` stand for in `owner`.

    Each class has its own: ``Middle(Base[list[T]], Generic[T])`` uses one T for two different things.
    """
    known: dict[type, Mapping[Any, Any]] = {owner: {}}
    for cls in owner.__mro__:
        for base in vars(cls).get("__orig_bases__", ()):
            origin = typing.get_origin(base)
            if isinstance(origin, type) and origin not in known:
                values = [_replaced(item, known.get(cls, {})) for item in typing.get_args(base)]
                known[origin] = dict(zip(getattr(origin, "__parameters__", ()), values, strict=False))
    return known.get(definer, {})


def _replaced(annotation: Any, variables: Mapping[Any, Any]) -> Any:
    """Put types in the place of type variables, at any depth."""
    if not variables:
        return annotation
    if isinstance(annotation, TypeVar):
        return variables.get(annotation, annotation)
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        # A generic model used with its own variable, Page[T] inside Crud[T], is the model itself.
        own = getattr(annotation, "__pydantic_generic_metadata__", {}).get("parameters", ())
        return cast("Any", annotation)[tuple(variables.get(item, item) for item in own)] if own else annotation
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if not arguments or origin is typing.Literal:
        return annotation
    if hasattr(annotation, "__metadata__"):  # Annotated; its origin is the type inside
        return typing.Annotated[(_replaced(arguments[0], variables), *annotation.__metadata__)]
    values = tuple(_replaced(item, variables) for item in arguments)
    if values == arguments:
        return annotation
    if origin in {typing.Union, types.UnionType}:
        return functools.reduce(operator.or_, values)
    return cast("Any", origin)[values]


def _text(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else str(annotation)
