"""Names of the data sets that can be specified, without torch."""

from __future__ import annotations

DATASETS = {
    "digits": "1,797 greyscale images of handwritten digits, 8x8, 10 classes; included in scikit-learn",
    "fashion-mnist": "70,000 greyscale images of clothing, 28x28, 10 classes; downloaded by torchvision",
    "cifar10": "60,000 colour images, 32x32, 10 classes; downloaded by torchvision",
    "cifar100": "60,000 colour images, 32x32, 100 classes; downloaded by torchvision",
    "folder:PATH": "your own images: PATH/CLASS/*.png, or PATH/train/CLASS/*, optionally with val and test beside it",
    "npz:PATH": "your own arrays: x_train and y_train, optionally x_val, y_val, x_test and y_test, in an .npz file",
}
