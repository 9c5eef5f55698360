"""What a person names (a data set, a folder, a file, arrays) → labelled images, checked."""

from speedtrain.data.load import load_data, load_images
from speedtrain.data.source import Data, Images

__all__ = ["Data", "Images", "load_data", "load_images"]
