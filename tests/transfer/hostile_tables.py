"""Files that lie: how each does, and the reason that it is refused for."""

import hostile_files as hostile
import numpy as np

entry, npy = hostile.entry, hostile.npy
two = {"a": entry(), "b": entry((2,), 8, 16)}

SAFETENSORS = {
    "header longer than the file": (b"\xff\0\0\0\0\0\0\0{}", "claims a header of 255"),
    "header of 2^63 bytes": (b"\xff" * 7 + b"\x7f{}", "claims a header of"),
    "cut in the prefix": (b"\2\0\0", "is truncated"),
    "not JSON": (hostile.safetensors(b"{'a': 1}"), "library refuses it"),
    "a list": (hostile.safetensors(b"{}"[:0] + b"[1]     "), "library refuses it"),
    "a shape that lies": (
        hostile.safetensors({"a": entry((3,))}, b"\0" * 8),
        "library refuses it",
    ),
    "a shape that overflows": (
        hostile.safetensors({"a": entry((2**40, 2**40))}, b"\0" * 8),
        "library refuses it",
    ),
    "a negative length": (
        hostile.safetensors({"a": entry((-2,))}, b"\0" * 8),
        "library refuses it",
    ),
    "overlapping tensors": (
        hostile.safetensors({"a": entry(), "b": entry((2,), 4, 12)}, b"\0" * 12),
        "library refuses it",
    ),
    "a gap between tensors": (
        hostile.safetensors({"a": entry(), "b": entry((2,), 12, 20)}, b"\0" * 20),
        "library refuses it",
    ),
    "data that is cut": (hostile.safetensors(two, b"\0" * 15), "library refuses it"),
    "data that is left over": (
        hostile.safetensors(two, b"\0" * 17),
        "library refuses it",
    ),
    "a key twice": (
        hostile.safetensors(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            b"\0" * 8,
        ),
        "the key 'a' stands twice",
    ),
    "a field twice": (
        hostile.safetensors(
            b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            b"\0" * 8,
        ),
        "library refuses it: .*duplicate|the key 'dtype' stands twice",
    ),
    "a way out": (
        hostile.safetensors({"../../x": entry()}, b"\0" * 8),
        'the key .* contains "/"|which would separate',
    ),
    "a way out by dots": (
        hostile.safetensors({"a..b": entry()}, b"\0" * 8),
        "has a part ''",
    ),
    "a key with a line break": (
        hostile.safetensors({"a\nb": entry()}, b"\0" * 8),
        "unprintable",
    ),
    "deep nesting": (
        hostile.safetensors({".".join("abcdefghij"): entry()}, b"\0" * 8),
        "nested too deeply.*max_depth",
    ),
    "deep JSON": (hostile.safetensors(b"[" * 5000 + b"]" * 5000), "too many|refuses"),
    "many brackets": (
        hostile.safetensors(b'{"a":' + b"[{}," * 50_000 + b"{}" + b"]" * 50_000),
        "too many '{'|the header",
    ),
    "more leaves than allowed": (
        hostile.safetensors(
            {f"k{i}": entry((0,), 0, 0) for i in range(101)},
        ),
        "too many leaves.*max_leaves",
    ),
    "more bytes than allowed": (
        hostile.safetensors({"a": entry((1 << 15,), 0, 1 << 17)}, b"\0" * (1 << 17)),
        "too large.*max_bytes",
    ),
    "a type of half a byte": (
        hostile.safetensors({"a": entry((16,), 0, 8, "F4")}, b"\0" * 8),
        "library refuses it|type 'F4'",
    ),
    "booleans that are neither": (
        hostile.safetensors({"a": entry((2,), 0, 2, "BOOL")}, b"\1\2"),
        "neither 0 nor 1",
    ),
    "NaN data": (
        hostile.safetensors({"a": entry((2,))}, np.float32([1, np.nan]).tobytes()),
        "a: 1 of 2 values are NaN or infinite",
    ),
}

NPZ = {
    "a header that lies upwards": (
        hostile.archive([("a.npy", npy(shape="(1000000000000,)"))]),
        "too large.*max_bytes",
    ),
    "a header that lies a little": (
        hostile.archive([("a.npy", npy(shape="(3,)"))]),
        "claims the shape \\(3,\\)",
    ),
    "a shape that overflows": (
        hostile.archive([("a.npy", npy(shape="(4611686018427387904, 4)"))]),
        "overflows",
    ),
    "a negative length": (
        hostile.archive([("a.npy", npy(shape="(-1,)"))]),
        "the shape of 'a'|no npy header",
    ),
    "a boolean length": (
        hostile.archive([("a.npy", npy(shape="(True,)"))]),
        "the shape of 'a'",
    ),
    "objects, which are a pickle": (
        hostile.archive([("a.npy", npy(descr="'|O'"))]),
        "'a' holds object",
    ),
    "records": (
        hostile.archive([("a.npy", npy(descr="[('x', '<f4')]"))]),
        "only numbers",
    ),
    "a long double": (
        hostile.archive([("a.npy", npy("'<f16'", "(1,)", b"\0" * 16))]),
        "only numbers",
    ),
    "text": (hostile.archive([("a.npy", npy(descr="'<U2'"))]), "only numbers"),
    "a header of code": (
        hostile.archive([("a.npy", npy(descr="__import__('os').getcwd()"))]),
        "no npy header",
    ),
    "a header of nothing": (
        hostile.archive([("a.npy", b"\x93NUMPY\1\0")]),
        "no npy header",
    ),
    "a version of the future": (
        hostile.archive([("a.npy", npy().replace(b"\1\0", b"\7\0", 1))]),
        "version",
    ),
    "no arrays": (hostile.archive([("a.npy", npy()), ("a.txt", b"")]), "is no array"),
    "a way out": (
        hostile.archive([("../../x.npy", npy())]),
        r"has a part '\.\.'",
    ),
    "an absolute way out": (hostile.archive([("/x.npy", npy())]), "has a part ''"),
    "deep nesting": (
        hostile.archive([("/".join("abcdefghij") + ".npy", npy())]),
        "nested too deeply",
    ),
    "a bomb": (
        hostile.bomb(1 << 27),
        "would expand .*max_expansion|too large.*max_bytes",
    ),
    "overlapping members": (hostile.overlapping_archive(), "overlap"),
    "a member twice": (hostile.duplicated_archive(), "stands twice"),
    "an encrypted member": (hostile.encrypted_archive(), "is encrypted"),
    "a member that lies about its size": (hostile.lying_archive(), "a.npy|'a'"),
    "a directory of 4 GB": (hostile.huge_directory(), "directory is too large"),
    "no directory": (hostile.archive([("a.npy", npy())])[:-30], "no zip directory"),
    "many members": (
        hostile.archive(
            [(f"{i}.npy", npy(shape="(0,)", data=b"")) for i in range(101)]
        ),
        "too many leaves",
    ),
    "NaN data": (
        hostile.archive([("a.npy", npy(data=np.float32([1, np.inf]).tobytes()))]),
        "a: 1 of 2 values are NaN or infinite",
    ),
}


MSGPACK = {
    "a shape that lies": (
        hostile.msgpack(hostile.msgpack_array((3,))),
        "claims the shape",
    ),
    "a huge shape": (hostile.msgpack(hostile.msgpack_array((1 << 40,))), "max_bytes"),
    "a shape that overflows": (
        hostile.msgpack(hostile.msgpack_array((1 << 40, 1 << 40))),
        "overflows",
    ),
    "objects": (
        hostile.msgpack(hostile.msgpack_array(dtype="object")),
        "the type 'object'",
    ),
    "a type of nobody": (
        hostile.msgpack(hostile.msgpack_array(dtype="f4, f4")),
        "the type",
    ),
    "text": (hostile.msgpack(hostile.msgpack_array(dtype="str")), "the type 'str'"),
    "another extension": (
        hostile.msgpack(hostile.msgpack_array(code=9)),
        "extension 9",
    ),
    "an array that claims 2^32 elements": (
        hostile.msgpack(b"\xdd\xff\xff\xff\xff"),
        "is truncated",
    ),
    "a map that claims 2^32 entries": (b"\xdf\xff\xff\xff\xff\xa1w", "is truncated"),
    "bytes that claim 4 GB": (
        hostile.msgpack(b"\xc6\xff\xff\xff\xff"),
        "is truncated",
    ),
    "a text that claims 4 GB": (
        hostile.msgpack(b"\xdb\xff\xff\xff\xff"),
        "is truncated",
    ),
    "deep maps": (hostile.msgpack(b"\x81\xa1w" * 5000 + b"\1"), "nested too deeply"),
    "deep arrays": (hostile.msgpack(b"\x91" * 5000 + b"\1"), "nested too deeply"),
    "a key twice": (b"\x82\xa1w\1\xa1w\2", "the key 'w' stands twice"),
    "a key of two types": (b"\x82\xa11\1\1\2", "the key '1' stands twice"),
    "two leaves of one name": (
        b"\x82\xa1a\x81\xa1b\1\xa3a/b\2",
        "two leaves share the name 'a/b'",
    ),
    "a key that is a map": (b"\x82\xa1w\1\x80\1", "a key is a map"),
    "a key that is no text": (hostile.msgpack(b"\1", b"\xa1\xff"), "utf-8"),
    "a way out": (
        hostile.msgpack(hostile.msgpack_array(), b"\xa7../../x"),
        r"has a part '\.\.'",
    ),
    "bytes": (hostile.msgpack(b"\xc4\1a"), "bytes and no array"),
    "a token of the future": (hostile.msgpack(b"\xc1"), "no msgpack token"),
    "more after the end": (hostile.msgpack(b"\1") + b"\1", "after the end"),
    "chunks that do not fill": (
        hostile.msgpack(
            b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\3\xa6chunks\x81\xa10"
            + hostile.msgpack_array()
        ),
        "do not fill its shape",
    ),
    "chunks of nothing": (
        hostile.msgpack(b"\x81\xb9__msgpack_chunked_array__\xc3"),
        "no chunked array",
    ),
    "many numbers": (hostile.msgpack(b"\xdc\x10\0" + b"\1" * 4096), "too many"),
    "NaN data": (
        hostile.msgpack(hostile.msgpack_array(data=b"\xff" * 8)),
        "w: 2 of 2 values are NaN or infinite",
    ),
}
