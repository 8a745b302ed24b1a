"""Image data: `load_data` reads a set with numpy alone; `aurep.data.loader` makes batches of it on the device."""

from aurep.data.images import ImageData
from aurep.data.load import DATA_NAMES, load_data
from aurep.data.sources import SOURCES, Source, default_data_dir

__all__ = ["DATA_NAMES", "SOURCES", "ImageData", "Source", "default_data_dir", "load_data"]
