"""Named tuples of arrays by reference, for compiled functions.

numba hands every word of every array of a tuple to every function that is called (and compiles that), and looks at every
index whether it counts from the end. A reference is one pointer, and its arrays know no negative indices: a run takes a third
less time, and compiling half as long.
"""

from __future__ import annotations

import operator
from typing import Any

from numba.core import cgutils, types
from numba.core.typing import Signature, signature, templates
from numba.extending import intrinsic, lower_builtin, lower_getattr_generic, models, register_model


class Rows(types.Type):
    """An array ``of`` which no index is negative."""

    def __init__(self, of: types.Array) -> None:
        self.of, self.ndim, self.dtype = of, of.ndim, of.dtype
        super().__init__(name=f"rows({of.name})")


class Reference(types.Type):
    """A pointer to a named tuple of arrays."""

    def __init__(self, of: types.NamedTuple) -> None:
        self.dtype = of
        super().__init__(name=f"reference({of.instance_class.__name__})")

    @property
    def key(self) -> types.Type:
        """What makes it another type."""
        return self.dtype


register_model(Rows)(models.ArrayModel)
register_model(Reference)(models.PointerModel)


@intrinsic
def by_reference(context: Any, of: types.NamedTuple) -> tuple[Signature, Any]:
    """A reference to a named tuple, for as long as the function runs that asks for it."""

    def made(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return cgutils.alloca_once_value(builder, args[0])

    return Reference(of)(of), made


@templates.infer_getattr
class _Attributes(templates.AttributeTemplate):
    key = Reference

    def generic_resolve(self, of: Reference, name: str) -> Rows | None:
        return Rows(of.dtype[of.dtype.fields.index(name)]) if name in of.dtype.fields else None


@lower_getattr_generic(Reference)
def _attribute(context: Any, builder: Any, of: Reference, value: Any, name: str) -> Any:
    return builder.load(cgutils.gep_inbounds(builder, value, 0, of.dtype.fields.index(name)))


def _unsigned(index: types.Type) -> types.Type:
    if isinstance(index, types.BaseTuple):
        return types.Tuple([types.uintp] * len(index))
    return types.uintp


@templates.infer_global(operator.getitem)
@templates.infer_global(operator.setitem)
class _Items(templates.AbstractTemplate):
    def generic(self, args: tuple[types.Type, ...], kws: Any) -> Signature | None:
        if not isinstance(args[0], Rows):
            return None
        rows, index = args[0], _unsigned(args[1])
        found = self.context.resolve_function_type(self.key, (rows.of, index, *args[2:]), {})
        result = Rows(found.return_type) if isinstance(found.return_type, types.Array) else found.return_type
        return signature(result, rows, index, *found.args[2:])


@templates.infer_global(len)
class _Length(templates.AbstractTemplate):
    def generic(self, args: tuple[types.Type, ...], kws: Any) -> Signature | None:
        return signature(types.intp, args[0]) if isinstance(args[0], Rows) else None


def _as_array(function: Any) -> Any:
    """What numba does for the array."""

    def made(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        result = sig.return_type.of if isinstance(sig.return_type, Rows) else sig.return_type
        plain = signature(result, sig.args[0].of, *sig.args[1:])
        return context.get_function(function, plain)(builder, args)

    return made


lower_builtin(operator.getitem, Rows, types.Any)(_as_array(operator.getitem))
lower_builtin(operator.setitem, Rows, types.Any, types.Any)(_as_array(operator.setitem))
lower_builtin(len, Rows)(_as_array(len))
