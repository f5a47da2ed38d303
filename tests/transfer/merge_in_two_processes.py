"""One of two processes that merge a checkpoint into a mesh of their four devices."""

import json
import sys

import jax
import numpy as np

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)


def main(path, port, process):
    """Print what this process read of the file, and what its shards hold."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    from jaxinit import initializers
    from jaxinit import transfer as tr
    from jaxinit.transfer._regions import Region

    seen = []
    read = Region.read

    def noted(region, index):
        found = read(region, index)
        seen.append(found.nbytes)
        return found

    Region.read = noted
    mesh = jax.make_mesh((4,), ("a",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    target = {
        name: jax.ShapeDtypeStruct((8, 4), np.float32)
        for name in ("plain", "turned", "doubled", "drawn")
    }
    rules = [
        tr.layout("turned", transpose=(1, 0)),
        tr.adapt("doubled", lambda array: 2 * array),
        tr.draw("drawn", initializers.normal()),
    ]
    tree, report = tr.merge(
        target,
        tr.open_checkpoint(path),
        rules,
        key=jax.random.key(0),
        out_shardings=sharding,
    )
    held = {
        name: {
            s.index[0].start: np.asarray(s.data).tolist() for s in a.addressable_shards
        }
        for name, a in tree.items()
    }
    said = {"held": held, "read": sum(seen), "fates": report.target_fates}
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
