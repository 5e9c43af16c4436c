"""Sources of images: folders, arrays in .npz files, data sets by name. Each gives a list of files or `Samples`."""
