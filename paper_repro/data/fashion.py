"""The 70,000 pictures of clothes of Fashion-MNIST (Xiao et al. 2017), from IDX files.

They are the Debian package `dataset-fashion-mnist`, and no package on PyPI.
"""

from pathlib import Path

from paper_repro.data.mnist import Mnist, as_digits, read_idx

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts the files."""
IDX_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""The official files and the sha256 of each when unzipped."""


def load(folder: Path | None = None) -> Mnist | None:
    """Return the pictures in the form of MNIST; None where no folder is given or installed.

    Args:
        folder: the folder of the four IDX files, gzipped or not; None takes the Debian package's.

    Raises:
        DataError: if the folder has not these files.
    """
    if folder is None and not FOLDER.is_dir():
        return None
    remedy = "apt-get install dataset-fashion-mnist and leave out --fashion-dir"
    return as_digits(read_idx(folder or FOLDER, IDX_FILES, "Fashion-MNIST", remedy))
