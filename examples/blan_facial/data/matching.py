"""The faces of one data set for a model that was trained on another."""

from collections.abc import Sequence

import numpy as np

from blan_facial.data.faces import DataError, FaceDataset


def match_attributes(faces: FaceDataset, attributes: Sequence[str]) -> FaceDataset:
    """Return the faces with a model's attributes in its order, whatever others the data set has.

    Args:
        faces: The data set.
        attributes: The model's N attributes.

    Raises:
        DataError: The data set lacks one of them.
    """
    if tuple(attributes) == faces.attributes:
        return faces
    if lacking := [name for name in attributes if name not in faces.attributes]:
        raise DataError(
            f"{faces.name}: must have the {len(attributes)} attributes that the model was trained on, "
            f"got none called {', '.join(lacking)}. Test the model on a data set that has them."
        )
    return _Matched(faces, tuple(attributes))


class _Matched(FaceDataset):
    """The same faces, their labels in another order."""

    def __init__(self, faces: FaceDataset, attributes: tuple[str, ...]) -> None:
        labels = faces.labels[:, [faces.attributes.index(name) for name in attributes]]
        super().__init__(faces.name, faces.split, attributes, labels, image_size=faces.image_size, notes=faces.notes)
        self._faces = faces

    def image(self, index: int) -> np.ndarray:
        return self._faces.image(index)
