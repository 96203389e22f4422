"""The methods of an interface as questions on a socket: their names, and the types of arguments and answers, read from
the annotations once at import. A new question to the keeper is one method of `KeeperApi` and its implementation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, get_type_hints

import msgspec

from holdfast.keeper.api import NO_CONDITION, KeeperApi
from holdfast.keeper.rpc.frames import FollowAnswer

_C = TypeVar("_C", bound=type)


class RemoteMethod:
    """One question: `arguments` and `answer` decode what travels."""

    __slots__ = ("_condition", "_defaults", "_required", "_signature", "answer", "arguments", "name")

    def __init__(self, name: str, function: Callable[..., Any], answer: Any = None) -> None:
        """`answer` is the type that travels where it is not the one of the annotation."""
        hints = get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        conditions = [i for i, parameter in enumerate(parameters) if parameter.default is NO_CONDITION]
        types = tuple(hints[parameter.name] for parameter in parameters)
        self.name = name
        self.arguments = msgspec.msgpack.Decoder(tuple.__class_getitem__(types))
        self.answer = msgspec.msgpack.Decoder(answer or hints["return"])
        self._signature = inspect.Signature(parameters)
        self._defaults = tuple(
            one.default for one in parameters if one.default is not inspect.Parameter.empty
        )
        self._required = len(parameters) - len(self._defaults)
        self._condition = conditions[0] if conditions else None

    def positional(self, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """All arguments of a call in their order, defaults included. Raises TypeError as a call of the method does."""
        if not named and self._required <= len(arguments) <= self._required + len(self._defaults):
            return arguments + self._defaults[len(arguments) - self._required :]
        bound = self._signature.bind(*arguments, **named)
        bound.apply_defaults()
        return bound.args

    def is_conditional(self, arguments: tuple[Any, ...]) -> bool:
        """Whether the call depends on the present state: it must not be repeated."""
        return self._condition is not None and arguments[self._condition] != NO_CONDITION


def methods_of(interface: type, answers: Mapping[str, Any]) -> dict[str, RemoteMethod]:
    """Every coroutine method of an interface, by name. `answers`: the types that travel in place of the annotated."""
    functions = {name: getattr(interface, name) for name in dir(interface) if not name.startswith("_")}
    return {
        name: RemoteMethod(name, function, answers.get(name))
        for name, function in functions.items()
        if inspect.iscoroutinefunction(function)
    }


#: a reader stays on its side of the socket; its number and the state of the fill travel
WIRE_ANSWERS = {"follow": FollowAnswer}
KEEPER_METHODS = methods_of(KeeperApi, WIRE_ANSWERS)


class Asker(Protocol):
    """What sends a question and waits for its answer."""

    async def ask(self, method: RemoteMethod, arguments: tuple[Any, ...]) -> Any:
        """The answer. Raises the refusal."""
        ...


def derived_questions(interface: type) -> Callable[[_C], _C]:
    """A class decorator: each coroutine method that the class inherits from the interface, and does not define, becomes
    a question that its `ask` sends."""

    def derive(cls: _C) -> _C:
        for name, method in methods_of(interface, WIRE_ANSWERS).items():
            if getattr(cls, name) is getattr(interface, name):
                setattr(cls, name, _question(method, getattr(interface, name)))
        return cls

    return derive


def _question(method: RemoteMethod, declared: Callable[..., Any]) -> Callable[..., Any]:
    async def question(self: Asker, *arguments: Any, **named: Any) -> Any:
        return await self.ask(method, method.positional(arguments, named))

    question.__name__, question.__doc__ = method.name, declared.__doc__
    return question
