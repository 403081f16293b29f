"""Structures that Python fills for `decode.cpp`, and a comparison of their layout with the compiled one."""

from __future__ import annotations

import ctypes

Pointer = ctypes.c_void_p
Int = ctypes.c_int64


class LinearStruct(ctypes.Structure):
    """`Linear` of products.h."""

    _fields_ = (
        ("weight", Pointer), ("a", Pointer), ("b", Pointer), ("bias", Pointer),
        ("in", Int), ("out", Int), ("rank", Int), ("is_low", Int),
    )  # fmt: skip


class LayerStruct(ctypes.Structure):
    """`Layer` of decode.cpp."""

    _fields_ = (
        ("qkv", LinearStruct), ("o", LinearStruct), ("gate_up", LinearStruct), ("down", LinearStruct),
        ("norm_in", Pointer), ("norm_post", Pointer), ("norm_q", Pointer), ("norm_k", Pointer),
        ("heads", Int), ("kv_heads", Int), ("width", Int), ("rotary", Int),
        ("eps", ctypes.c_float), ("scaling", ctypes.c_float), ("window", Int),
    )  # fmt: skip


class StepStruct(ctypes.Structure):
    """`Step` of decode.cpp."""

    _fields_ = (
        ("x", Pointer), ("cos", Pointer), ("sin", Pointer), ("prompt_length", Pointer), ("start", Pointer),
        ("cells", Int), ("slots", Int), ("longest", Int), ("capacity", Int), ("clock", Int),
        ("scratch", Pointer),
    )  # fmt: skip


class KVCachesStruct(ctypes.Structure):
    """`KVCaches` of decode.cpp."""

    _fields_ = (("prompt_k", Pointer), ("prompt_v", Pointer), ("own_k", Pointer), ("own_v", Pointer))


STRUCTS: tuple[type[ctypes.Structure], ...] = (LinearStruct, LayerStruct, StepStruct, KVCachesStruct)


class NamedBytes(ctypes.Structure):
    """`NamedBytes` of decode.cpp."""

    _fields_ = (("name", ctypes.c_char_p), ("bytes", Int))


def layout() -> dict[str, int]:
    """Bytes of every structure's size, by its name, and of every field's offset, by `Structure.field`."""
    found = {}
    for struct in STRUCTS:
        name = struct.__name__.removesuffix("Struct")
        found[name] = ctypes.sizeof(struct)
        found |= {f"{name}.{field[0]}": getattr(struct, field[0]).offset for field in struct._fields_}
    return found


def compiled_layout(library: ctypes.CDLL) -> dict[str, int]:
    """The same of the compiled structures; empty for a library that does not export it."""
    try:
        count = Int.in_dll(library, "struct_layout_length").value
        entries = (NamedBytes * count).in_dll(library, "struct_layout")
    except ValueError:  # how ctypes reports a missing symbol
        return {}
    return {entry.name.decode(): entry.bytes for entry in entries}


def layout_difference(library: ctypes.CDLL) -> str | None:
    """The first difference between the compiled structures and these, in half a sentence; None when there is none."""
    ours, theirs = layout(), compiled_layout(library)
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            return (
                f"the layout of {name} is {theirs.get(name, 'unknown')} (bytes) in the compiled library and "
                f"{ours.get(name, 'unknown')} in kernels/structs.py"
            )
    return None
