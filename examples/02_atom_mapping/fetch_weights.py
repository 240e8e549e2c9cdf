#!/usr/bin/env python3
"""Fetch the RXNMapper weights and convert them to safetensors.

The weights (MIT licence) are published inside the PyPI package `rxnmapper` as a torch pickle of
the old, pre-zip kind. A pickle is a program, so it is read here without running any of it: the
unpickler knows four names, each answered by an inert stand-in of ours, and refuses every other.
The package itself is neither installed nor imported; it is only opened as the zip file that it is.

Needs Python 3.8 or newer and its standard library; pip only to download.
"""

import io
import json
import math
import pickle
import pickletools
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fetch_wheel  # noqa: E402
from fetch_wheel import FormatError  # noqa: E402

WHEEL = fetch_wheel.Wheel(
    project="rxnmapper",
    version="0.4.3",
    name="rxnmapper-0.4.3-py3-none-any.whl",
    sha256="27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
    about="about 3 MB, MIT licence",
)
MODEL_FOLDER = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
LICENSE_MEMBER = "rxnmapper-0.4.3.dist-info/licenses/LICENSE"


# --- The old torch format ---------------------------------------------------------------------
# Five pickles (magic number, protocol, system, object, list of storage keys), then for every key
# in the list an int64 element count and the raw elements.

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001

# What torch.save writes for a state dict. No opcode here makes an instance of a class, looks into
# the extension registry, or holds raw bytes.
ALLOWED_OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS".split()
)
# Room for about 2000 tensors; it also bounds the unpickler's memo and the depth of nesting.
MAX_OPCODES = 50_000
# A tensor that stands under several names (tied weights) is written once per name.
MAX_GROWTH = 4


class StorageType(NamedTuple):
    dtype: str  # as safetensors spells it
    itemsize: int


class Storage(NamedTuple):
    key: str
    type: StorageType
    count: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: Tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class StateDict(dict):
    """Stand-in for OrderedDict: unique string keys; torch's `_metadata` attribute is dropped."""

    __slots__ = ()

    def __setitem__(self, name: Any, value: Any) -> None:
        if type(name) is not str:
            raise FormatError(f"a name must be a string; found {type(name).__name__}")
        if name in self:
            raise FormatError(f"the name {name!r} appears twice")
        super().__setitem__(name, value)

    def __setstate__(self, state: Any) -> None:
        pass


class MakeStateDict:
    __slots__ = ()

    def __call__(self) -> StateDict:
        return StateDict()


class RebuildTensor:
    """Stand-in for torch._utils._rebuild_tensor_v2: checks the geometry, touches no data."""

    __slots__ = ()

    def __call__(self, storage, offset, shape, stride, requires_grad, hooks) -> Tensor:
        if type(storage) is not Storage:
            raise FormatError("a tensor must lie in a storage")
        if not (_is_size(offset) and _are_sizes(shape) and _are_sizes(stride)):
            raise FormatError("offset, shape and stride of a tensor must be sizes")
        if type(requires_grad) is not bool or hooks:
            raise FormatError("a tensor must have no hooks")
        if not _is_contiguous(shape, stride):
            raise FormatError(f"a tensor must be contiguous; found shape {shape}, stride {stride}")
        tensor = Tensor(storage, offset, shape)
        if offset + tensor.count > storage.count:
            raise FormatError(
                f"a tensor must end inside its storage of {storage.count} elements; "
                f"found offset {offset}, shape {shape}"
            )
        return tensor


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_sizes(values: Any) -> bool:
    return type(values) is tuple and all(map(_is_size, values))


def _is_contiguous(shape: Tuple[int, ...], stride: Tuple[int, ...]) -> bool:
    if len(shape) != len(stride):
        return False
    if 0 in shape:
        return True
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride)):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


# Instances, never classes, and without attributes: a pickle can neither make further objects of
# them nor change them.
STAND_INS = {
    ("collections", "OrderedDict"): MakeStateDict(),
    ("torch._utils", "_rebuild_tensor_v2"): RebuildTensor(),
    ("torch", "FloatStorage"): StorageType("F32", 4),
    ("torch", "LongStorage"): StorageType("I64", 8),
}


class TensorUnpickler(pickle.Unpickler):
    """Gives only stand-ins; every storage that the pickle names is kept in `storages`."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data))
        self.storages: Dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[module, name]
        except KeyError:
            reason = f"only tensors may be in the file; found {module!r} {name!r}"
            raise FormatError(reason) from None

    def persistent_load(self, pid: Any) -> Storage:
        if type(pid) is not tuple or len(pid) != 6 or pid[0] != "storage":
            raise FormatError("a persistent id must name a storage")
        _, storage_type, key, location, count, view = pid
        if type(storage_type) is not StorageType or type(key) is not str or not _is_size(count):
            raise FormatError("a storage must have a type, a key and a count")
        if type(location) is not str or view is not None:
            raise FormatError(f"the storage {key!r} must not be a view of another")
        storage = Storage(key, storage_type, count)
        if self.storages.setdefault(key, storage) != storage:
            raise FormatError(f"the storage {key!r} is described in two ways")
        return storage


def _next_pickle(stream: io.BytesIO) -> TensorUnpickler:
    """The pickle at the stream's position, its opcodes checked; the stream moves behind it."""
    begin = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in ALLOWED_OPCODES:
            raise FormatError(f"the pickle opcode {opcode.name} is not allowed")
        if count >= MAX_OPCODES:
            raise FormatError(f"a pickle must have at most {MAX_OPCODES} opcodes")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and argument >= MAX_OPCODES:
            raise FormatError(f"a memo index must be below {MAX_OPCODES}; found {argument}")
    return TensorUnpickler(stream.getbuffer()[begin : stream.tell()])


def _read_description(stream: io.BytesIO) -> Tuple[StateDict, Dict[str, Storage], List[str]]:
    """The five pickles: tensors by name, storages by key, and the keys in their data's order."""
    if _next_pickle(stream).load() != TORCH_MAGIC:
        raise FormatError("the file must begin with torch's magic number")
    if _next_pickle(stream).load() != TORCH_PROTOCOL:
        raise FormatError(f"torch's protocol must be {TORCH_PROTOCOL}")
    system = _next_pickle(stream).load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise FormatError("the file must be little-endian")
    unpickler = _next_pickle(stream)
    tensors = unpickler.load()
    if type(tensors) is not StateDict:
        raise FormatError("the object in the file must be a dictionary of tensors")
    for name, tensor in tensors.items():
        if type(tensor) is not Tensor:
            raise FormatError(f"{name!r} must be a tensor; found {type(tensor).__name__}")
    keys = _next_pickle(stream).load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise FormatError("the storage keys must be a list of strings")
    if len(set(keys)) != len(keys) or set(keys) != set(unpickler.storages):
        raise FormatError("the storage keys must be those of the tensors, each once")
    return tensors, unpickler.storages, keys


def _read_storages(
    stream: io.BytesIO, storages: Dict[str, Storage], keys: List[str]
) -> Dict[str, memoryview]:
    data = stream.getbuffer()
    position = stream.tell()
    elements = {}
    for key in keys:
        _, storage_type, count = storages[key]
        begin = position + 8
        position = begin + count * storage_type.itemsize
        if position > len(data):
            raise FormatError(f"the file ends inside the storage {key!r}")
        (found,) = struct.unpack("<q", data[begin - 8 : begin])
        if found != count:
            raise FormatError(f"the storage {key!r} must have {count} elements; found {found}")
        elements[key] = data[begin:position]
    if position != len(data):
        extra = len(data) - position
        raise FormatError(f"the file must end after its storages; found {extra} more bytes")
    return elements


def _refuse_partial_overlap(tensors: Dict[str, Tensor]) -> None:
    """Two names may share a whole tensor (tied weights), never a part of one."""
    filled = [tensor for tensor in tensors.values() if tensor.count]
    ranges = sorted((t.storage.key, t.offset, t.offset + t.count) for t in filled)
    for before, after in zip(ranges, ranges[1:]):
        if before[0] == after[0] and before != after and after[1] < before[2]:
            raise FormatError(f"tensors overlap in the storage {before[0]!r}")


def read_torch_file(data: bytes) -> Dict[str, Tuple[str, Tuple[int, ...], memoryview]]:
    """Tensors of a pre-zip torch file: name -> (dtype, shape, raw little-endian elements)."""
    stream = io.BytesIO(data)
    try:
        tensors, storages, keys = _read_description(stream)
        elements = _read_storages(stream, storages, keys)
    except FormatError:
        raise
    except Exception as error:  # whatever a malformed pickle provokes
        raise FormatError(f"the file is malformed: {type(error).__name__}: {error}") from error
    _refuse_partial_overlap(tensors)
    if sum(t.count * t.storage.type.itemsize for t in tensors.values()) > MAX_GROWTH * len(data):
        raise FormatError(f"the tensors must not be more than {MAX_GROWTH} times the file")
    result = {}
    for name, tensor in tensors.items():
        dtype, itemsize = tensor.storage.type
        begin = tensor.offset * itemsize
        end = begin + tensor.count * itemsize
        result[name] = (dtype, tensor.shape, elements[tensor.storage.key][begin:end])
    return result


# --- Writing ----------------------------------------------------------------------------------

SAFETENSORS_ITEMSIZE = {"I64": 8, "F64": 8, "F32": 4, "U8": 1, "BOOL": 1}


def safetensors_bytes(
    tensors: Dict[str, Tuple[str, Tuple[int, ...], Any]], metadata: Optional[Dict[str, str]] = None
) -> bytes:
    """A safetensors file: names sorted; aligned by wider types first and a padded header."""
    header: Dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    names = sorted(tensors, key=lambda name: (-SAFETENSORS_ITEMSIZE[tensors[name][0]], name))
    end = 0
    for name in names:
        dtype, shape, data = tensors[name]
        begin, end = end, end + len(data)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensors[name][2] for name in names)])


# --- The package ------------------------------------------------------------------------------


def convert(data: bytes) -> bytes:
    print(f"converting pytorch_model.bin ({len(data):,} bytes), running none of its code")
    tensors = read_torch_file(data)
    print(f"read {len(tensors)} tensors")
    return safetensors_bytes(tensors, {"format": "pt"})


def files_from_wheel(path: Path) -> Dict[str, bytes]:
    fetch_wheel.check(path, WHEEL)
    with zipfile.ZipFile(path) as wheel:
        return {
            "model.safetensors": convert(wheel.read(f"{MODEL_FOLDER}/pytorch_model.bin")),
            "vocab.txt": wheel.read(f"{MODEL_FOLDER}/vocab.txt"),
            "LICENSE-rxnmapper.txt": wheel.read(LICENSE_MEMBER),
        }


def files_from_bin(path: Path) -> Dict[str, bytes]:
    files = {"model.safetensors": convert(path.read_bytes())}
    vocabulary = path.with_name("vocab.txt")
    if vocabulary.exists():
        files["vocab.txt"] = vocabulary.read_bytes()
    else:
        print(f"{vocabulary} does not exist: no vocab.txt is written")
    return files


def main(arguments: Optional[List[str]] = None) -> int:
    parser = fetch_wheel.make_parser(
        WHEEL,
        "Fetch the RXNMapper weights (MIT licence) from PyPI, about 3 MB, once, and convert them "
        "to safetensors without running any code of the package.",
        "rxnmapper",
    )
    parser.add_argument(
        "--bin", type=Path, metavar="FILE",
        help="convert this pytorch_model.bin, whatever its sha256, with the vocab.txt beside it",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.bin and options.wheel:
        parser.error("--bin and --wheel name two sources; give one")

    def files() -> Dict[str, bytes]:
        if options.bin:
            return files_from_bin(options.bin)
        cache = fetch_wheel.cache_folder()
        return files_from_wheel(options.wheel or fetch_wheel.download(WHEEL, cache))

    return fetch_wheel.write_files(WHEEL, options.output, files)


if __name__ == "__main__":
    sys.exit(main())
