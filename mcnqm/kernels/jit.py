"""How kernels are compiled: every option in one place, and the few machine operations Python has no word for.

Bit-identity is a contract of the package, so arithmetic must mean the same in a vector body, in its remainder
loop and in a lone lane:

* fused multiply-adds are written out (`fma`), never left to the compiler's choice (no ``contract``);
* no reassociation, and NaN and infinity are honoured, since divergence is a result;
* ``error_model="numpy"``: Python's check for division by zero would keep loops from vectorising.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from mcnqm.problems.arithmetic import fma, number

__all__ = [
    "OPTIONS",
    "double_bits",
    "double_from_bits",
    "float_bits",
    "float_from_bits",
    "fma",
    "get",
    "inlined",
    "load_row",
    "load_state",
    "number",
    "put",
    "scalar",
    "scheduled",
    "scheduled_last",
    "scheduled_row",
    "store_row",
    "store_state",
]

OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "fastmath": {"nsz"}, "boundscheck": False}
"""Options of every jitted function."""

inlined = functools.partial(numba.njit, forceinline=True, **OPTIONS)
"""Decorator for the scalar arithmetic that kernels are made of: always inlined, so that loops vectorise."""

scalar = inlined()
"""``@scalar``: `inlined`, ready to use on a user's update."""


@overload(fma, jit_options={"forceinline": True})
def _overload_fma(a, b, c):
    return lambda a, b, c: _fma(a, b, c)  # noqa: PLW0108 - an overload must return a function


@intrinsic
def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    kind = types.float32 if a == b == c == types.float32 else types.float64
    return kind(kind, kind, kind), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic
def float_bits(typingctx: Any, x: Any) -> Any:
    """The 32 bits of a float32."""
    return types.uint32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@intrinsic
def float_from_bits(typingctx: Any, x: Any) -> Any:
    """The float32 with these 32 bits."""
    return types.float32(types.uint32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@intrinsic
def double_bits(typingctx: Any, x: Any) -> Any:
    """The 64 bits of a float64."""
    return types.int64(types.float64), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(64)
    )


@intrinsic
def double_from_bits(typingctx: Any, x: Any) -> Any:
    """The float64 with these 64 bits."""
    return types.float64(types.int64), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.DoubleType()
    )


def _other_than_state(builder: Any) -> Any:
    """Metadata that names the lanes' state: accesses to anything else carry it as ``noalias``.

    LLVM cannot know that a store to the state leaves the noise, the hyperparameters and the coefficients alone, and
    would check it before every loop of a few dozen lanes, and keep a scalar loop for the case that it does not hold.
    """
    module = builder.module
    domain = module.add_metadata([ir.MetaDataString(module, "mcnqm")])
    scope = module.add_metadata([ir.MetaDataString(module, "mcnqm: state of the lanes"), domain])
    return module.add_metadata([scope])


def _marked(builder: Any, instruction: Any, mark: str) -> Any:
    if mark:
        instruction.set_metadata(mark, _other_than_state(builder))
    return instruction


def _element(context: Any, builder: Any, array_type: Any, array: Any, index: Any, k: int, stride: int) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [builder.add(index, ir.Constant(index.type, k * stride))], inbounds=True)


@intrinsic
def get(typingctx: Any, array: Any, index: Any) -> Any:
    """``array[index]`` of a one-dimensional array other than the lanes' state, index >= 0.

    Python's rule that a negative index counts from the end costs a comparison, which keeps loops over ``start + j``
    from vectorising.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        load = builder.load(_element(context, builder, array, args[0], args[1], 0, 0))
        return _marked(builder, load, "noalias")

    return array.dtype(array, types.intp), codegen


@intrinsic
def put(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index] = value`` of a one-dimensional array, index >= 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _element(context, builder, array, args[0], args[1], 0, 0))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@overload(number, jit_options={"forceinline": True})
def _overload_number(value, like):
    return lambda value, like: _number(value, like)  # noqa: PLW0108 - an overload must return a function


@intrinsic
def _number(typingctx: Any, value: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], value, like)

    return like(value, like), codegen


def _load(like: Any, array: Any, stride: Any, mark: str) -> Any:
    step = stride.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loads = []
        for k, kind in enumerate(like.types):
            load = builder.load(_element(context, builder, array, args[1], args[2], k, step))
            loads.append(context.cast(builder, _marked(builder, load, mark), array.dtype, kind))
        return context.make_tuple(builder, like, loads)

    return like(like, array, types.intp, stride), codegen


def _store(values: Any, array: Any, stride: Any, mark: str) -> Any:
    step = stride.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for k, kind in enumerate(values.types):
            value = context.cast(builder, builder.extract_value(args[0], k), kind, array.dtype)
            _marked(builder, builder.store(value, _element(context, builder, array, args[1], args[2], k, step)), mark)
        return context.get_dummy_value()

    return types.void(values, array, types.intp, stride), codegen


@intrinsic(prefer_literal=True)
def load_row(typingctx: Any, like: Any, array: Any, index: Any, stride: Any) -> Any:
    """Read the tuple ``array[index], array[index + stride], ...``, of the type and length of `like`.

    `array` is one-dimensional, of floats, not the lanes' state, `stride` a compile-time constant. Kernels keep all
    lanes' numbers in one array, a fixed stride apart, so that the compiler knows that no two of them overlap and
    vectorises without checks at run time. A NamedTuple in gives a NamedTuple out: the hyperparameters of one lane.
    """
    return _load(like, array, stride, "noalias")


@intrinsic(prefer_literal=True)
def store_row(typingctx: Any, values: Any, array: Any, index: Any, stride: Any) -> Any:
    """Write a tuple of floats to ``array[index], array[index + stride], ...``; `load_row` reads it back."""
    return _store(values, array, stride, "")


@intrinsic(prefer_literal=True)
def load_state(typingctx: Any, like: Any, state: Any, index: Any, stride: Any) -> Any:
    """`load_row` of the lanes' state."""
    return _load(like, state, stride, "alias.scope")


@intrinsic(prefer_literal=True)
def store_state(typingctx: Any, values: Any, state: Any, index: Any, stride: Any) -> Any:
    """`store_row` to the lanes' state, which nothing else overlaps."""
    return _store(values, state, stride, "alias.scope")


def _rows_before(kinds: Any, k: int) -> int:
    return sum(1 for kind in kinds[:k] if kind.count)


@intrinsic(prefer_literal=True)
def scheduled_row(typingctx: Any, mask: Any, values: Any, array: Any, index: Any, stride: Any) -> Any:
    """A tuple, its entries multiplied by this step's factors where `mask` says that they have one.

    `mask` is () where nothing is scheduled, else a tuple of tuples, one for each entry of `values` and some more: empty
    where that has no factor. Factors lie at ``array[index], array[index + stride], ...``, one row for each that there
    is. What a mask says is in its type, so that nobody pays for schedules who has none.
    """
    kinds, step = mask.types, getattr(stride, "literal_value", 0)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        entries = []
        for k in range(len(values)):
            entry = builder.extract_value(args[1], k)
            if kinds and kinds[k].count:
                row = _rows_before(kinds, k)
                factor = builder.load(_element(context, builder, array, args[2], args[3], row, step))
                _marked(builder, factor, "noalias")
                entry = builder.fmul(entry, context.cast(builder, factor, array.dtype, values.types[k]))
            entries.append(entry)
        return context.make_tuple(builder, values, entries)

    return values(mask, values, array, types.intp, stride), codegen


@intrinsic(prefer_literal=True)
def scheduled(typingctx: Any, mask: Any, values: Any, value: Any, array: Any, index: Any, stride: Any) -> Any:
    """A number multiplied by its factor: that of the entry after those of the tuple `values`, see `scheduled_row`."""
    kinds, step = mask.types, getattr(stride, "literal_value", 0)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not (kinds and kinds[len(values)].count):
            return args[2]
        row = _rows_before(kinds, len(values))
        factor = builder.load(_element(context, builder, array, args[3], args[4], row, step))
        _marked(builder, factor, "noalias")
        return builder.fmul(args[2], context.cast(builder, factor, array.dtype, value))

    return value(mask, values, value, array, types.intp, stride), codegen


@intrinsic(prefer_literal=True)
def scheduled_last(typingctx: Any, mask: Any, array: Any, index: Any, stride: Any) -> Any:
    """The last entry's factor, in a tuple; an empty tuple where it has none."""
    kinds, step = mask.types, getattr(stride, "literal_value", 0)
    there = bool(kinds and kinds[-1].count)
    result = numba.typeof((0.0,) if there else ())

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not there:
            return context.make_tuple(builder, result, [])
        row = _rows_before(kinds, len(kinds) - 1)
        value = builder.load(_element(context, builder, array, args[1], args[2], row, step))
        _marked(builder, value, "noalias")
        return context.make_tuple(builder, result, [value])

    return result(mask, array, types.intp, stride), codegen
