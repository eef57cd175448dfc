"""Triton's interpreter, twice as fast and right for doubles that become bfloat16.

The interpreter puts its own functions into ``triton.language`` before a kernel runs, and once more
before every call of a function inside it, which takes more time than the function does: here once a
launch. It keeps bfloat16 as 16 bits, and makes whole numbers of float64 on their way there, where a
device rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import ismodule
from typing import Any

from triton import language
from triton.runtime import interpreter


@cache
def _languages(function: Callable[..., object]) -> frozenset[str]:
    """The modules that are patched for a function: those that it can name."""
    names = function.__globals__.values()
    return frozenset(m.__name__ for m in names if ismodule(m) and m in (language, language.core))


def round_doubles_to_bfloat16() -> None:
    """By way of float32, from which the interpreter knows how."""
    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_by_float32(builder: Any, source: Any, target: Any) -> Any:
        if (source.dtype.scalar, target.scalar) == (language.float64, language.bfloat16):
            single = interpreter.TensorHandle(source.data.astype("float32"), language.float32)
            return cast(builder, single, target)
        return cast(builder, source, target)

    interpreter.InterpreterBuilder.cast_impl = cast_by_float32


def patch_once_a_launch() -> None:
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[frozenset[str]] = set()

    def patch_once(function: Callable[..., object]) -> Any:
        languages = _languages(function)
        if languages in patched:
            return None
        patched.add(languages)
        return patch(function)

    def fresh_launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        patched.clear()  # the one before has put everything back
        launch(executor, *args, **kwargs)

    interpreter._patch_lang = patch_once
    interpreter.GridExecutor.__call__ = fresh_launch
