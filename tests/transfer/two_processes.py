"""One of two processes that place a checkpoint on a mesh of their four devices."""

import json
import sys

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)


def main(path, port, process):
    """Print what this process read of the file, and what its shards hold."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    from jaxinit.transfer import open_checkpoint
    from jaxinit.transfer._regions import Region

    seen = []
    read = Region.read

    def noted(region, index):
        found = read(region, index)
        seen.append([int(index[0].start), int(index[0].stop), found.nbytes])
        return found

    Region.read = noted
    mesh = jax.make_mesh((4,), ("a",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    array = open_checkpoint(path)["w"].place(sharding)
    shards = {shard.index[0].start: shard.data for shard in array.addressable_shards}
    held = {start: data.reshape(-1).tolist() for start, data in shards.items()}
    total = sum(nbytes for _, _, nbytes in seen)
    print(json.dumps({"shape": array.shape, "held": held, "read": total}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
