# SPDX-License-Identifier: Apache-2.0
"""Pictures as points, and back."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import numpy as np

LEAST_POINTS = 2**22


@dataclasses.dataclass
class Picture:
    """Points in a space of a few dimensions, as k-means wants them."""

    path: pathlib.Path  # where the result goes beside
    elements: np.ndarray  # as they were read: (height, width, channels) or (points, dimensions)

    @property
    def points(self) -> np.ndarray:
        """The elements as (points, dimensions) float64."""
        return np.ascontiguousarray(
            self.elements.reshape(-1, self.elements.shape[-1]), dtype=np.float64
        )

    def is_image(self) -> bool:
        return self.elements.ndim == 3 and self.elements.dtype == np.uint8

    def write_quantised(self, centres: np.ndarray, labels: np.ndarray) -> pathlib.Path:
        """Write each element replaced by its centre, beside the original."""
        replaced = centres[labels].reshape(self.elements.shape)
        suffix = ".quantised.png" if self.is_image() else ".quantised.npy"
        target = self.path.with_suffix(suffix)
        try:
            target.touch()
        except OSError:
            target = demo_folder() / target.name
        if self.is_image():
            from PIL import Image

            Image.fromarray(np.clip(np.rint(replaced), 0, 255).astype(np.uint8)).save(target)
        else:
            np.save(target, replaced)
        return target


def demo_folder() -> pathlib.Path:
    folder = pathlib.Path("demo")
    folder.mkdir(exist_ok=True)
    return folder


def load(given: str | None) -> Picture:
    """Read a picture or a .npy file; without one, the photograph that scikit-learn ships."""
    if given is None:
        import sklearn.datasets

        shipped = pathlib.Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
        path = demo_folder() / shipped.name
        shutil.copyfile(shipped, path)
    else:
        path = pathlib.Path(given)
    if not path.is_file():
        raise SystemExit(f"demo: there is no file {path}; INPUT is a picture or a .npy file")
    if path.suffix == ".npy":
        elements = np.load(path)
        if elements.ndim < 2 or elements.size == 0 or elements.dtype.kind not in "biuf":
            raise SystemExit(
                f"demo: {path} holds {elements.dtype} {elements.shape}; expected numbers, as "
                "(points, dimensions) or (height, width, channels)"
            )
        return Picture(path, elements)

    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return Picture(path, np.asarray(image.convert("RGB")))
    except UnidentifiedImageError:
        raise SystemExit(f"demo: {path} is neither a picture nor a .npy file") from None


def tiled(points: np.ndarray, least: int = LEAST_POINTS) -> tuple[np.ndarray, int]:
    """Repeat the points until there are at least so many; return them and how often."""
    times = -(-least // len(points))
    return np.tile(points, (times, 1)), times
