"""Avatars: drawn faces with attributes one can see, the data set of the demo."""

from blan_facial.data.avatars.dataset import COUNTS, load_avatars
from blan_facial.data.avatars.design import ATTRIBUTES

__all__ = ["ATTRIBUTES", "COUNTS", "load_avatars"]
