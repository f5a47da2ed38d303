"""Pickles of torch files that lie: what each does, and the reason it is refused for."""

import hostile_files as hostile

tensor = hostile.tensor


def pickled(value):
    return hostile.state_dict(value)


def scalar(kind=b"f8", state=b"<", data=b"\0" * 8):
    """The instructions that leave a number of NumPy on the stack, with any claims."""
    tail = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    return (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\2\0\0\0"
        + kind
        + b"\x89\x88tR(K\3X\1\0\0\0"
        + state
        + tail
        + b"C"
        + bytes([len(data)])
        + data
        + b"tR"
    )


TORCH_PICKLES = {
    "a tensor without a name": (
        b"\x80\2" + tensor() + b".",
        "holds one tensor, without a name; save a dictionary",
    ),
    "another global": (
        pickled(b"cos\nsystem\n(X\4\0\0\0true" + b"tR"),
        "os.system|posix",
    ),
    "eval": (pickled(b"cbuiltins\neval\n(X\1\0\0\0" + b"1tR"), "builtins.eval"),
    "getattr": (pickled(b"cbuiltins\ngetattr\n0N"), "builtins.getattr"),
    "a private helper of torch": (
        pickled(b"ctorch._utils\n_import_dotted_name\n0N"),
        "torch._utils._import_dotted_name",
    ),
    "torch.load itself": (pickled(b"ctorch\nload\n0N"), "torch.load"),
    "a dotted name": (
        pickled(b"\x8c\x0ctorch._utils\x8c\x03a.b\x930N"),
        r"refers to torch\._utils\.a\.b",
    ),
    "a factory that is a function": (
        pickled(b"ccollections\ndefaultdict\n(cos\nsystem\ntR"),
        r"refers to os\.system",
    ),
    "a factory that is called": (
        pickled(b"cbuiltins\nlist\n(]tR"),
        r"a call of builtins\.list",
    ),
    "a factory that is no name": (
        pickled(b"ccollections\ndefaultdict\n(X\4\0\0\0listtR"),
        "a defaultdict of what is no plain type",
    ),
    "a factory that makes tensors": (
        pickled(b"ccollections\ndefaultdict\n(ctorch._utils\n_rebuild_tensor\ntR"),
        "a defaultdict of what is no plain type",
    ),
    "a tuple as a key of a defaultdict": (
        pickled(b"ccollections\ndefaultdict\n(cbuiltins\nlist\ntR(K\1K\2tNs"),
        "a key is of type tuple",
    ),
    "a key of a defaultdict twice": (
        pickled(b"ccollections\ndefaultdict\n(cbuiltins\nlist\ntRK\1NsK\1Ns"),
        "the key '1' stands twice",
    ),
    "an array of NumPy": (
        pickled(b"cnumpy.core.multiarray\n_reconstruct\n0N"),
        r"refers to numpy\.core\.multiarray\._reconstruct",
    ),
    "a number that is an object": (
        pickled(scalar(b"O8")),
        "of another type than a plain one",
    ),
    "a number of few bytes": (
        pickled(scalar(data=b"\0" * 7)),
        "a number of NumPy without its bytes",
    ),
    "a number of another machine": (
        pickled(scalar(state=b">")),
        "a number of NumPy in another byte order",
    ),
    "a number of no byte order": (
        pickled(scalar(state=b"x")),
        "a number of NumPy of a type with parts",
    ),
    "a number without a type": (
        pickled(b"cnumpy.core.multiarray\nscalar\n(NC\0tR"),
        "a number of NumPy without its bytes",
    ),
    "a codec": (
        pickled(b"c_codecs\nencode\n(X\1\0\0\0aX\5\0\0\0rot13tR"),
        r"a call of _codecs\.encode",
    ),
    "an instance": (pickled(b"(X\1\0\0\0aios\nsystem\n"), "instruction INST"),
    "a new object": (pickled(b"ctorch\nSize\n)\x81"), "instruction NEWOBJ"),
    "an extension": (pickled(b"\x82\1"), "instruction EXT1"),
    "a buffer": (pickled(b"\x97"), "instruction NEXT_BUFFER"),
    "a storage by text": (pickled(b"Pstorage\n"), "instruction PERSID"),
    "a view beyond its storage": (pickled(tensor(offset=1)), "reaches element 2"),
    "a stride beyond its storage": (pickled(tensor(stride=(2,))), "reaches element 2"),
    "a negative stride": (pickled(tensor(offset=1, stride=(-1,))), "the shape of"),
    "a negative offset": (pickled(tensor(offset=-1)), "damaged"),
    "a negative length": (pickled(tensor(shape=(-2,))), "the shape of"),
    "a shape that overflows": (
        pickled(tensor(shape=(1 << 40, 1 << 40), stride=(0, 0))),
        "overflows",
    ),
    "an expanded bomb": (
        pickled(tensor(shape=(1 << 40,), stride=(0,))),
        "too large.*max_bytes|max_expansion",
    ),
    "a storage that lies": (pickled(tensor(length=3, shape=(3,))), "pickle claims 12"),
    "a storage that is missing": (
        pickled(tensor(key=b"7")),
        "no member for storage '7'",
    ),
    "a storage outside": (
        pickled(tensor(key=b".").replace(b"X\1\0\0\0.", b"X\5\0\0\0../.x")),
        "no member for storage",
    ),
    "a text of 4 GB": (pickled(b"X\xff\xff\xff\x7f"), "damaged"),
    "bytes of 2^60": (
        pickled(b"\x8e\0\0\0\0\0\0\0\x10"),
        "damaged",
    ),
    "a number of many digits": (
        pickled(b"I" + b"9" * 5000 + b"\n"),
        "damaged",
    ),
    "a billion laughs": (hostile.billion_laughs(), "nested too deeply|too many"),
    "a list in itself": (pickled(b"]q\1h\1a"), "nested too deeply"),
    "a tuple as a key": (pickled(b"}(K\1K\2tNs"), "a key is of type tuple"),
    "a deep tuple as a key": (
        pickled(b"}" + b")" + b"\x85" * 5000 + b"Ns"),
        "a key is of type tuple|too many instructions",
    ),
    "deep lists": (pickled(b"]" * 50 + b"a" * 49), "nested too deeply"),
    "a key twice": (
        b"\x80\2}X\1\0\0\0wNsX\1\0\0\0wNs.",
        "the key 'w' stands twice",
    ),
    "an empty stack": (b"\x80\2.", "damaged"),
    "a mark as a value": (b"\x80\2(.", "damaged"),
    "no end": (b"\x80\2}", "damaged|does not end"),
    "an unknown instruction": (b"\x80\2\xff.", "damaged"),
    "a call of a text": (pickled(b"X\1\0\0\0a)R"), "damaged"),
    "a dictionary of odd length": (pickled(b"(X\1\0\0\0ad"), "damaged"),
    "many instructions": (pickled(b"N0" * 20_000 + b"N"), "too many instructions"),
    "a way out": (
        hostile.state_dict(key=b"../../x"),
        "the key .* contains '/'|which would separate",
    ),
    "NaN data": (hostile.state_dict(), "w: 2 of 2 values are NaN or infinite"),
}

LEGACY = {
    "another global": (
        hostile.legacy(TORCH_PICKLES["another global"][0]),
        "refers to",
    ),
    "another protocol": (
        hostile.legacy(hostile.state_dict()).replace(b"M\xe9\3", b"M\xea\3"),
        "a protocol that torch never had",
    ),
    "another machine": (
        hostile.legacy(hostile.state_dict()).replace(b"endian\x88", b"endian\x89"),
        "little-endian",
    ),
    "storages of other names": (
        hostile.legacy(hostile.state_dict(), b"](X\1\0\0\0" + b"1e."),
        "lists other storages",
    ),
    "storages that are no list": (
        hostile.legacy(hostile.state_dict(), b"N."),
        "lists other storages",
    ),
    "a storage of another length": (
        hostile.legacy(hostile.state_dict(), storages=b"\3" + b"\0" * 19),
        "has 3 elements, and its pickle claims 2",
    ),
    "a storage that is cut": (
        hostile.legacy(hostile.state_dict())[:-1],
        "7 bytes are left",
    ),
    "a storage of negative length": (
        hostile.legacy(hostile.state_dict(), storages=b"\xff" * 8 + b"\0" * 8),
        "has -1 elements",
    ),
    "cut in the tree": (hostile.legacy(hostile.state_dict())[:90], "damaged|no end"),
    "no magic number": (b"\x80\2K\1.", "none that torch.save wrote"),
    "NaN data": (
        hostile.legacy(hostile.state_dict())[:-8] + b"\xff" * 8,
        "w: 2 of 2 values are NaN",
    ),
}
TORCH = {
    name: (
        hostile.torch_zip(
            content, (b"\xff" * 8,) if name == "NaN data" else (b"\0" * 8,)
        ),
        reason,
    )
    for name, (content, reason) in TORCH_PICKLES.items()
}
