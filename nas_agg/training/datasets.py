"""Names of the data sets that can be specified, without torch."""

from __future__ import annotations

DATASETS = {
    "digits": "1,797 greyscale images of handwritten digits, 8x8, 10 classes; included in scikit-learn",
    "fashion-mnist": "70,000 greyscale images of clothing, 28x28, 10 classes; downloaded by torchvision",
    "cifar10": "60,000 colour images, 32x32, 10 classes; downloaded by torchvision",
    "cifar100": "60,000 colour images, 32x32, 100 classes; downloaded by torchvision",
    "mnist, kmnist, emnist": "70,000 to 131,600 greyscale images of characters, 28x28; downloaded by torchvision",
    "svhn": "99,289 colour images of house numbers, 32x32, 10 classes; downloaded by torchvision",
    "stl10": "13,000 colour images, 96x96, 10 classes; downloaded by torchvision",
    "flowers102, oxford-pets, food101": "photos of flowers, pets and dishes; downloaded by torchvision, at 64x64",
    "dtd, gtsrb, aircraft, country211": "textures, traffic signs, aircraft and places; likewise",
    "imagenette, eurosat, caltech101": "ten classes of ImageNet, satellite images and objects; likewise",
    "folder:PATH": "your own images: PATH/CLASS/*.png, or PATH/train/CLASS/*, optionally with val and test beside it",
    "npz:PATH": "your own arrays: x_train and y_train, optionally x_val, y_val, x_test and y_test, in an .npz file",
    "csv:FILE": "your own images with a label, several labels or a target each, optionally a split and a weight",
}
FILE_KINDS = ("folder", "npz", "csv")
