"""Records of an image set that TFDS has prepared, read by number without TensorFlow."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from jaxvae.data.raw import one_line
from jaxvae.types import InputError


class Records:
    """The images of a split [N, *event], and their labels if each has a single class number.

    Args:
        builder: the TFDS builder of a prepared set.
        split: TFDS's name of the split.

    Raises:
        InputError: its files cannot be read.
    """

    def __init__(self, builder: Any, split: str):
        from tensorflow_datasets.proto import tf_example_pb2

        self._builder, self._example = builder, cast(Any, tf_example_pb2).Example
        self._image, self._has_label = builder.info.features["image"], label_of(builder) is not None
        with blaming(self._builder):
            # Raw bytes: TFDS's own conversion to NumPy takes twice as long as everything here.
            self._source = builder.as_data_source(split=split).data_source
            self.files = tuple(Path(file) for file in builder.info.splits[split].filepaths)
        image = self._image.shape
        self.event_shape = image[:-1] if image[-1] == 1 else image
        self.dtype = np.dtype(self._image.np_dtype)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: Int[np.ndarray, "n"]) -> dict[str, np.ndarray]:
        """Read `x` [n, *event] and, if there is one, `label` [n] of these rows; thread-safe.

        Raises:
            InputError: a file or a record is damaged, or an image has another shape.
        """
        found = {"x": np.empty((len(rows), *self.event_shape), self.dtype)}
        if self._has_label:
            found["label"] = np.empty(len(rows), np.int32)
        with blaming(self._builder):
            records = self._source.__getitems__(rows.tolist())
            for at, record in enumerate(records):
                fields = self._example.FromString(record).features.feature
                image = self._decode(fields["image"].bytes_list.value[0])
                if image.size != found["x"][at].size:
                    raise InputError(
                        f"record {rows[at]:,}: expected an image of shape {self._image.shape}, got "
                        f"{image.shape}"
                    )
                found["x"][at] = image.reshape(self.event_shape)
                if self._has_label:
                    found["label"][at] = fields["label"].int64_list.value[0]
        return found

    def _decode(self, image: bytes) -> np.ndarray:
        if self.dtype != np.uint8:
            return self._image.decode_example_np(image)
        from PIL import Image

        with Image.open(io.BytesIO(image)) as picture:
            return np.asarray(picture)


def label_of(builder: Any) -> Any | None:
    """Return the feature `label` if it is one class number per image, else None."""
    feature = dict(builder.info.features.items()).get("label")
    if feature is None or feature.shape != () or np.dtype(feature.np_dtype).kind not in "iu":
        return None
    return feature


@contextlib.contextmanager
def blaming(builder: Any) -> Iterator[None]:
    """Raise an error that names the damaged folder if the reader (C++, with its own errors) fails."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{builder.data_dir}: the files of TFDS {builder.info.name} cannot be read "
            f"({one_line(error)}); remove the folder and prepare it again"
        ) from error
