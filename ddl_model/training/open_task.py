"""From a run's configuration to its data, opened and checked before anything is started."""

from dataclasses import replace
from pathlib import Path

from ddl_model.config import LanguageModelConfig
from ddl_model.training import fashion_mnist
from ddl_model.training.config import TextDataConfig, TrainConfig
from ddl_model.training.image_task import ImageTask
from ddl_model.training.task import Task
from ddl_model.training.text_task import TextTask


def open_task(config: TrainConfig, data: Path | None = None) -> Task:
    """Open the data of a run, from the folder `data` if it is given.

    Raises:
        DataError: they are missing, damaged, or do not fit the model.
    """
    if isinstance(config.data, TextDataConfig):
        assert isinstance(config.model, LanguageModelConfig)  # TrainConfig refuses anything else
        text = config.data if data is None else replace(config.data, folder=str(data))
        return TextTask(text, config.model, config.seed)
    return ImageTask(fashion_mnist.load(data), config.data, config.model, config.seed)
