"""heed's shared object, bench/peers/*.cpp, as Python functions."""

import ctypes
import functools
import weakref

import torch


class Tensor(ctypes.Structure):
    """HeedPeerTensor of heed_peer.hpp."""

    _fields_ = [("name", ctypes.c_char_p), ("values", ctypes.c_void_p), ("rank", ctypes.c_int64),
                ("shape", ctypes.c_int64 * 3)]


Visitor = ctypes.CFUNCTYPE(None, ctypes.POINTER(Tensor))


class HeedError(Exception):
    """What heed had to say."""


class Handle:
    """Something that heed has opened; closed when nobody refers to it any more."""

    def __init__(self, pointer, close):
        self.pointer = ctypes.c_void_p(pointer)
        weakref.finalize(self, close, self.pointer)


class Heed:
    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        self._library.heed_peer_last_error.restype = ctypes.c_char_p
        self._library.heed_peer_isa.restype = ctypes.c_char_p
        self.peer = functools.cache(self._new_peer)

    def _new_peer(self, threads):
        return self.opened("heed_peer", ctypes.c_int32(threads))

    def _fail(self):
        raise HeedError(self._library.heed_peer_last_error().decode())

    def bound(self, name, *arguments):
        """A call of a C function with these arguments; throws HeedError when it fails."""
        compute = getattr(self._library, name)

        def call():
            if compute(*arguments):
                self._fail()

        return call

    def number(self, name, *arguments):
        """What a C function that cannot fail returns."""
        compute = getattr(self._library, name)
        compute.restype = ctypes.c_double
        return compute(*arguments)

    def opened(self, what, *arguments):
        """A Handle on what a function `what`_open makes."""
        make = getattr(self._library, f"{what}_open")
        make.restype = ctypes.c_void_p
        return Handle(make(*arguments) or self._fail(), getattr(self._library, f"{what}_close"))

    def shown(self, name, handle):
        """Copies of what a C function shows to a visitor, by name."""
        found = {}

        def keep(tensor):
            shape = tensor.contents.shape[:tensor.contents.rank]
            count = functools.reduce(int.__mul__, shape, 1)
            memory = (ctypes.c_float * count).from_address(tensor.contents.values)
            found[tensor.contents.name.decode()] = torch.frombuffer(
                memory, dtype=torch.float32).reshape(shape).clone()

        self.bound(name, handle.pointer, Visitor(keep))()
        return found

    @property
    def instruction_set(self):
        return (self._library.heed_peer_isa() or self._fail()).decode()

    def fma_peak(self, threads, seconds=0.005):
        """FLOP/s of multiply-adds alone, by all threads together."""
        result = ctypes.c_double()
        self.bound("heed_peer_fma_peak", self.peer(threads).pointer, ctypes.c_double(seconds),
                   ctypes.byref(result))()
        return result.value


def addresses(*tensors):
    return [tensor.data_ptr() for tensor in tensors]


def pointers(*tensors):
    """As arguments of a call."""
    return [ctypes.c_void_p(address) for address in addresses(*tensors)]


def integers(*values):
    """The same, of 64 bits."""
    return [ctypes.c_int64(value) for value in values]


def named(weights):
    """Tensors by name as the two arguments of an open function; they must live through the call."""
    array = (Tensor * len(weights))()
    for place, (name, tensor) in zip(array, weights.items()):
        place.name, place.values, place.rank = name.encode(), tensor.data_ptr(), tensor.dim()
        place.shape[:tensor.dim()] = tensor.shape
    return array, ctypes.c_int64(len(weights))
