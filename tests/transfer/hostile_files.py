"""Files that lie, built byte by byte: each name says how, each value what is said."""

import io
import json
import struct
import zipfile


def safetensors(header, data=b""):
    """A safetensors file with any header: a dictionary, or the bytes of one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape=(2,), start=0, end=8, dtype="F32"):
    """One entry of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def npy(descr="'<f4'", shape="(2,)", data=b"\0" * 8, order="False"):
    """An npy file whose header claims what is given, as text."""
    claims = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"
    text = claims.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


def archive(members, compression=zipfile.ZIP_STORED):
    """A zip archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def torch_zip(pickled, storages=(b"\0" * 8,), extra=()):
    """A torch file with this pickle."""
    members = [("archive/data.pkl", pickled), *extra]
    members += [(f"archive/data/{i}", content) for i, content in enumerate(storages)]
    return archive(members)


def tensor(offset=0, shape=(2,), stride=(1,), length=2, key=b"0"):
    """The instructions that leave a float32 tensor on the stack."""

    def number(value):
        size = (value.bit_length() + 8) // 8
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = (
        b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
        + key
        + b"X\3\0\0\0cpu"
        + number(length)
        + b"tQ"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + numbers(shape)
        + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def state_dict(value=None, key=b"w"):
    """A pickle of one dictionary with one value."""
    value = tensor() if value is None else value
    return b"\x80\2}X" + struct.pack("<I", len(key)) + key + value + b"s."


def msgpack_array(shape=(2,), dtype="float32", data=b"\0" * 8, code=1):
    """An array as Flax packs it, with any claims."""
    axes = bytes([0x90 | len(shape)]) + b"".join(
        b"\xcf" + struct.pack(">Q", length) for length in shape
    )
    name = bytes([0xA0 | len(dtype)]) + dtype.encode()
    inner = b"\x93" + axes + name + b"\xc6" + struct.pack(">I", len(data)) + data
    return b"\xc9" + struct.pack(">Ib", len(inner), code) + inner


def msgpack(value, key=b"\xa1w"):
    """A map with one key."""
    return b"\x81" + key + value


def overlapping_archive():
    """Two members of a zip whose directory points at the same bytes."""
    content = bytearray(archive([("a.npy", npy()), ("b.npy", npy())]))
    second = content.rindex(b"PK\1\2")
    struct.pack_into("<L", content, second + 42, 0)  # where its local header is
    return bytes(content)


def duplicated_archive():
    """Two members of one name."""
    content = archive([("a.npy", npy()), ("b.npy", npy())])
    return content.replace(b"b.npy", b"a.npy")


def encrypted_archive():
    """A member that says it is encrypted."""
    content = bytearray(archive([("a.npy", npy())]))
    content[content.rindex(b"PK\1\2") + 8] |= 1
    return bytes(content)


def lying_archive():
    """A compressed member that expands to more than its directory says."""
    data = npy(shape="(2000,)", data=b"\0" * 8000)
    content = bytearray(archive([("a.npy", data)], zipfile.ZIP_DEFLATED))
    small = npy(shape="(20,)", data=b"\0" * 80)
    for place, at in ((content.rindex(b"PK\1\2"), 24), (0, 22)):
        struct.pack_into("<L", content, place + at, len(small))
    return bytes(content)


def huge_directory():
    """An end record that claims a directory of 4 GB."""
    content = bytearray(archive([("a.npy", npy())]))
    struct.pack_into("<L", content, content.rindex(b"PK\5\6") + 12, 0xFFFFFFF0)
    return bytes(content)


def bomb(nbytes):
    """A small archive of one large member."""
    data = npy(shape=f"({nbytes // 4},)", data=b"\0" * nbytes)
    return archive([("a.npy", data)], zipfile.ZIP_DEFLATED)


def billion_laughs(levels=40):
    """A pickle in which each list holds the one before twice: 2^40 places."""
    pickled = b"]q\x000"
    for level in range(levels):
        before = b"h" + bytes([level])
        pickled += b"](" + before + before + b"eq" + bytes([level + 1]) + b"0"
    return state_dict(pickled + b"h" + bytes([levels]))


def legacy(pickled, keys=b"](X\1\0\0\0" + b"0e.", storages=None):
    """A torch file of the older form."""
    magic = b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    system = b"\x80\2}X\r\0\0\0little_endian\x88s."
    storages = struct.pack("<q", 2) + b"\0" * 8 if storages is None else storages
    return magic + b"\x80\2M\xe9\3." + system + pickled + b"\x80\2" + keys + storages
