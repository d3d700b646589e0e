"""The shape of a signature: which parameter is what, and whether the function can be served at all.

Types are looked at only as far as the shape needs it. An annotation that cannot be resolved yet (a string that names
something defined later) is judged by its text, and again by `echostream.binding` once all types exist.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from echostream_derive.names import SignatureError, fault, label_of, location_of
from echostream_derive.spec import (
    CallbackSpec,
    CallShape,
    HandlerOptions,
    HandlerSpec,
    ParameterRole,
    ParameterSpec,
)

__all__ = (
    "RESERVED_PARAMETERS",
    "Scope",
    "dependency_of",
    "is_context",
    "is_items",
    "misplaced_dependency",
    "read_callback",
    "read_handler",
)

RESERVED_PARAMETERS = frozenset({"returns", "timeout", "metadata", "retry", "idempotency_key"})
"""Options of ``session.request(method, *args, **kwargs)``; an argument of that name could not be passed there."""

_ITERATORS: tuple[object, ...] = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_ITERATOR_TEXT = re.compile(r"(\w+\.)*Async(Iterator|Iterable|Generator)\s*(\[.*\])?", re.DOTALL)
_QUOTES = " '\""
_DEPENDENCY_TEXT = re.compile(r"(\w+\.)*Annotated\s*\[.*\bDepends\s*\(.*", re.DOTALL)
_CONTEXT_TEXT = re.compile(r"(\w+\.)*Context(\s*\|\s*None)?")


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """Names that an annotation may use besides the globals of its function."""

    local: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """Of the functions around; they hide the globals."""
    members: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """Of the class body; asked last, because a method called ``list`` must not hide the builtin."""

    @classmethod
    def of(cls, frame: types.FrameType) -> Scope:
        """Return what can be seen from the frame in which a decorator is applied."""
        local: dict[str, Any] = {}
        members: dict[str, Any] = {}
        here: types.FrameType | None = frame
        while here is not None and here.f_locals is not here.f_globals:
            if "__qualname__" not in here.f_locals:  # a function; what surrounds it is not on the stack
                local = dict(here.f_locals)
                break
            members = {**here.f_locals, **members}
            here = here.f_back
        return cls(local, members)

    def resolve(self, annotation: object, function: Callable[..., Any]) -> object:
        """Return the type that an annotation of `function` means; whatever its evaluation raises passes."""
        space = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            return _evaluate(annotation, space, self.local)
        except NameError:
            return _evaluate(annotation, space, {**self.members, **self.local})


def is_items(annotation: object) -> bool:
    """Whether an annotation, resolved or text, is a stream of items."""
    if isinstance(annotation, str):
        return _ITERATOR_TEXT.fullmatch(annotation.strip(_QUOTES)) is not None
    return annotation in _ITERATORS or typing.get_origin(annotation) in _ITERATORS


def is_context(annotation: object) -> bool:
    """Whether an annotation, resolved or text, is the call's context."""
    if isinstance(annotation, str):
        return _CONTEXT_TEXT.fullmatch(annotation.strip(_QUOTES)) is not None
    if isinstance(annotation, type):
        return getattr(annotation, "__echostream_role__", None) == "context"
    return typing.get_origin(annotation) in {types.UnionType, typing.Union, typing.Annotated} and any(
        is_context(part) for part in typing.get_args(annotation)
    )


def dependency_of(annotation: object) -> Any:
    """Return the marker in a resolved ``Annotated[T, Depends(function)]``; None in anything else."""
    found = getattr(annotation, "__metadata__", ())
    return next((item for item in found if getattr(item, "__echostream_role__", None) == "dependency"), None)


def misplaced_dependency(parameter: inspect.Parameter, annotation: object) -> str | None:
    """Return what is wrong where ``Depends`` stands but nothing would fill the parameter; None where all is well."""
    name = parameter.name
    if getattr(parameter.default, "__echostream_role__", None) == "dependency":
        return (
            f"parameter {name!r} has Depends as its default; write {name}: Annotated[T, Depends(function)] = INJECTED"
        )
    if isinstance(dependency_of(annotation), type):
        return f"parameter {name!r} does not say what it depends on; write Annotated[T, Depends(function)]"
    return None


def read_handler(function: Callable[..., Any], options: HandlerOptions, *, attribute: str, scope: Scope) -> HandlerSpec:
    """Describe a handler.

    Raises:
        SignatureError: it cannot be called over a connection as it is written.
    """
    return _HandlerReader(function, options, scope).read(attribute)


def read_callback(
    function: Callable[..., Any], *, attribute: str, scope: Scope, takes: str = "payload"
) -> CallbackSpec:
    """Describe a listener or stream handler: ``(payload)`` or ``(payload, ctx)``, plain or async.

    Annotations are not asked for; a builtin that shows no signature takes the payload alone. In a text about a stream
    `takes` is ``receiver``.

    Raises:
        SignatureError: it takes no payload, wants more than payload and context, or something else in their places.
    """
    shapes = f"({takes}) or ({takes}, ctx)"
    parameters = _parameters(function)
    accepts, keyword, rest = False, None, parameters[1:]
    dependencies: dict[str, object] = {}
    if not parameters or parameters[0].kind in {parameters[0].KEYWORD_ONLY, parameters[0].VAR_KEYWORD}:
        name = _name(function)
        raise _fault(function, f"takes no {takes}; write {name}({takes}) or {name}({takes}, ctx)")
    first = _resolved(parameters[0].annotation, function, scope)
    if is_context(first):
        raise _fault(function, f"parameter {parameters[0].name!r}: the context comes second; a callback takes {shapes}")
    if parameters[0].kind is parameters[0].VAR_POSITIONAL:
        rest = []
    for index, item in enumerate(rest):
        annotation = _resolved(item.annotation, function, scope)
        if problem := misplaced_dependency(item, annotation):
            raise _fault(function, problem)
        if item.kind in {item.VAR_POSITIONAL, item.VAR_KEYWORD}:
            continue
        if _is_dependency(annotation) and item.kind is not item.POSITIONAL_ONLY:
            dependencies[item.name] = annotation
            continue
        if not accepts and item.kind is item.KEYWORD_ONLY and (is_context(annotation) or _is_injected(item.default)):
            accepts, keyword = True, item.name
        elif not accepts and index == 0 and item.kind is not item.KEYWORD_ONLY:
            accepts = item.default is item.empty or is_context(annotation) or _is_injected(item.default)
            if accepts and _is_no_context(annotation):
                raise _fault(function, f"parameter {item.name!r}: would get the context; a callback takes {shapes}")
        elif item.default is item.empty:
            raise _fault(function, f"parameter {item.name!r}: a callback takes {shapes}; remove it")
    return CallbackSpec(
        attribute=attribute,
        annotation=None if first is inspect.Parameter.empty else first,
        accepts_context=accepts,
        context_keyword=keyword,
        dependencies=dependencies,
        is_async=inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(type(function).__call__),  # an object with an async __call__
        function=function,
        location=location_of(function),
    )


def _is_no_context(annotation: object) -> bool:
    """Whether a resolved annotation names a class that no context can be an object of."""
    return isinstance(annotation, type) and annotation.__module__ == "builtins" and annotation is not object


class _HandlerReader:
    """Reads one signature; holds what every error text needs."""

    def __init__(self, function: Callable[..., Any], options: HandlerOptions, scope: Scope) -> None:
        self._function = function
        self._options = options
        self._scope = scope

    def read(self, attribute: str) -> HandlerSpec:
        function = self._function
        parameters = tuple(self._parameter(item) for item in _parameters(function))
        self._check_roles(parameters)
        result = _signature(function).return_annotation
        if result is inspect.Signature.empty:
            if inspect.isasyncgenfunction(function):
                raise self._fault("the result has no annotation; it yields, so write -> AsyncIterator[...]")
            raise self._fault("the result has no annotation; write -> None, or the type that it returns")
        result = _resolved(result, function, self._scope)
        if typing.get_origin(result) in {collections.abc.Iterator, collections.abc.Generator}:
            raise self._fault("the result is an iterator that is not async; write -> AsyncIterator[...]")
        sends_items = any(item.role is ParameterRole.ITEMS for item in parameters)
        self._check_kind(sends_items=sends_items, returns_items=is_items(result))
        given: dict[str, Any] = {
            item.name: getattr(self._options, item.name) for item in dataclasses.fields(HandlerOptions)
        }
        given["name"] = self._options.name or attribute
        return HandlerSpec(
            **given,
            attribute=attribute,
            shape=CallShape.of(sends_items=sends_items, returns_items=is_items(result)),
            parameters=parameters,
            result=result,
            doc=inspect.getdoc(function) or "",
            function=function,
            location=location_of(function),
        )

    def _parameter(self, item: inspect.Parameter) -> ParameterSpec:
        if item.kind in {item.VAR_POSITIONAL, item.VAR_KEYWORD}:
            raise self._fault(f"parameter {str(item).split(':')[0]!r} takes anything; name each argument and its type")
        if item.name in RESERVED_PARAMETERS:
            raise self._fault(f"the parameter name {item.name!r} is reserved for options of a call; rename it")
        annotation = _resolved(item.annotation, self._function, self._scope)
        if problem := misplaced_dependency(item, annotation):
            raise self._fault(problem)
        if item.annotation is item.empty:
            context = _is_injected(item.default) or item.name == "ctx"
            example = f"{item.name}: Context = INJECTED" if context else f"{item.name}: int"
            raise self._fault(f"parameter {item.name!r} has no annotation; write {example}")
        role = self._role(item, annotation)
        if role is not ParameterRole.ARGUMENT and item.kind is item.POSITIONAL_ONLY:
            raise self._fault(f"parameter {item.name!r} is filled by name; move it behind the /")
        if role is ParameterRole.ITEMS and item.default is not item.empty:
            raise self._fault(f"parameter {item.name!r} is the stream of items and is always there; drop its default")
        return ParameterSpec(
            name=item.name,
            role=role,
            keyword_only=item.kind is item.KEYWORD_ONLY,
            has_default=item.default is not item.empty,
            default=None if item.default is item.empty else item.default,
            positional_only=item.kind is item.POSITIONAL_ONLY,
            annotation=annotation,
        )

    def _role(self, item: inspect.Parameter, annotation: object) -> ParameterRole:
        if is_context(annotation):
            return ParameterRole.CONTEXT
        if _is_dependency(annotation):
            return ParameterRole.DEPENDENCY
        if _is_injected(item.default):
            if isinstance(annotation, type) and annotation not in {object, Any}:  # Any is a class since 3.11
                raise self._fault(
                    f"parameter {item.name!r} is injected but {annotation.__name__} is no Context; write "
                    f"{item.name}: Context = INJECTED, or Annotated[{annotation.__name__}, Depends(...)]"
                )
            return ParameterRole.CONTEXT
        return ParameterRole.ITEMS if is_items(annotation) else ParameterRole.ARGUMENT

    def _check_roles(self, parameters: tuple[ParameterSpec, ...]) -> None:
        for role, what in ((ParameterRole.ITEMS, "stream of items"), (ParameterRole.CONTEXT, "context")):
            # An injected parameter whose type cannot be resolved yet may turn out to be a dependency.
            names = [
                item.name
                for item in parameters
                if item.role is role and (not isinstance(item.annotation, str) or _is_shown(item.annotation))
            ]
            if len(names) > 1:
                raise self._fault(f"parameter {names[1]!r} is a second {what} beside {names[0]!r}; keep one")

    def _check_kind(self, *, sends_items: bool, returns_items: bool) -> None:
        """Async, or a thread that says so; items come out of generators or, in a contract, of plain methods."""
        function, thread = self._function, self._options.thread
        name = _name(function)
        generates = inspect.isasyncgenfunction(function)
        if inspect.isgeneratorfunction(function):
            raise self._fault(f"a plain generator cannot be served; write async def {name}(...) -> AsyncIterator[...]")
        if generates and not returns_items:
            raise self._fault("yields items, so its result is a stream; write -> AsyncIterator[...]")
        if inspect.iscoroutinefunction(function) and returns_items:
            raise self._fault(
                f"is declared to return items but yields none; yield in it, or write def {name}(...) in a contract"
            )
        if not thread:
            if not (inspect.iscoroutinefunction(function) or returns_items):
                raise self._fault(f"is a plain function; write async def {name}(...), or @handler(thread=True)")
        elif generates or inspect.iscoroutinefunction(function):
            raise self._fault(f"is async and needs no thread; drop thread=True, or write def {name}(...)")
        elif sends_items or returns_items:
            raise self._fault(f"a thread cannot stream items; drop thread=True and write async def {name}(...)")

    def _fault(self, problem: str) -> SignatureError:
        return _fault(self._function, problem)


def _fault(function: Callable[..., Any], problem: str) -> SignatureError:
    return fault(location_of(function), label_of(function), problem)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "callback")


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # Lazy annotations may name what is defined later: take them as text there.
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters without ``self``."""
    try:
        found = list(_signature(function).parameters.values())
    except ValueError:  # a builtin that does not tell
        return [inspect.Parameter("payload", inspect.Parameter.POSITIONAL_ONLY)]
    if not _is_method(function):
        return found
    first = found[0] if found else None
    if first is None or first.kind not in {first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD} or _is_typed(first):
        raise _fault(function, f"a method of a class needs self; write {_name(function)}(self, ...)")
    return found[1:]


def _is_typed(first: inspect.Parameter) -> bool:
    """Whether the first parameter of a method is an argument: nobody annotates ``self`` under another name."""
    return first.annotation is not first.empty and first.name != "self"


def _is_method(function: Callable[..., Any]) -> bool:
    """Whether a function was defined in a class body and is not bound to an object yet."""
    if not inspect.isfunction(function):
        return False
    around = function.__qualname__.rpartition(".")[0]
    return bool(around) and not around.endswith("<locals>")


def _is_shown(annotation: object) -> bool:
    """Whether an annotation says what it is although it cannot be resolved."""
    return is_context(annotation) or is_items(annotation)


def _is_dependency(annotation: object) -> bool:
    if isinstance(annotation, str):
        return _DEPENDENCY_TEXT.fullmatch(annotation.strip(_QUOTES)) is not None
    return dependency_of(annotation) is not None


def _is_injected(default: object) -> bool:
    return getattr(default, "__echostream_role__", None) == "injected"


def _resolved(annotation: object, function: Callable[..., Any], scope: Scope) -> object:
    """Return the type, or what was written where that cannot be resolved yet."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    try:
        return scope.resolve(annotation, function)
    except Exception:  # noqa: BLE001 - evaluating an annotation runs the user's code; binding reports what is wrong
        return annotation


def _evaluate(annotation: object, space: dict[str, Any], local: Mapping[str, Any]) -> object:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, space, dict(local), include_extras=True)["it"]
