"""Models from elsewhere: timm's by name, the user's own by `package.module:factory`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aurep.errors import AurepError
from aurep.torchvision import import_torchvision


def build_timm(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """timm's model `name`, with fresh weights.

    Raises:
        AurepError: timm is not installed, or has no such model.
    """
    timm = _import_timm()
    known: list[str] = timm.list_models()
    if name.split(".")[0] not in known:
        raise AurepError(
            f"timm has no model {name!r}; expected a name that timm.list_models() gives, such as efficientnet_b2."
        )
    model = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    if not isinstance(model, nn.Module):
        raise AurepError(f"timm's {name!r} gave a {type(model).__name__}, expected a torch.nn.Module.")
    return model


def pretrained_timm(name: str, file: str | None, like: nn.Module) -> dict[str, Tensor]:
    """The state of timm's model `name` with the weights that timm has for it, or those in `file`, loaded as timm does.

    Args:
        name: as timm.list_pretrained() gives them, such as efficientnet_b2.ra_in1k.
        file: a path, read in place of what timm would download.
        like: the model to be loaded, whose number of classes timm is asked for.

    Raises:
        AurepError: timm is not installed, has no such model or no weights for it, or cannot fetch or load them.
    """
    timm = _import_timm()
    classes = getattr(like, "num_classes", None)
    overlay = {"pretrained_cfg_overlay": {"file": file}} if file else {}
    options = {"num_classes": classes} if classes is not None else {}
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **options, **overlay)
    except Exception as error:  # timm raises its own, the hub client's and the system's errors
        raise AurepError(
            f"timm cannot load weights for {name!r} ({type(error).__name__}: {error}); expected a name that "
            "timm.list_pretrained() gives and a network to fetch them from, or a file as timm:NAME@FILE."
        ) from None
    return model.state_dict()


def preprocessing_of_timm(name: str) -> dict[str, Any]:
    """How timm's weights of `name` want their images: mean, std, interpolation and crop_pct, as the keys of [data]."""
    config = _import_timm().models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return {}
    keys = ("mean", "std", "interpolation", "crop_pct")
    return {key: value for key in keys if (value := getattr(config, key, None)) is not None}


def _import_timm() -> Any:
    try:
        import_torchvision()
        return import_module("timm")
    except ImportError as error:
        raise AurepError(f'a timm: model needs timm ({error}); pip install "aurep[timm]".') from error


def build_from_factory(name: str, *, given: dict[str, Any], offered: dict[str, Any]) -> nn.Module:
    """Call the user's factory `package.module:factory`, looked for in the working folder too.

    Args:
        name: module and callable, separated by a colon.
        given: options the user set on purpose; a factory that cannot take one is an error.
        offered: further keyword arguments, of which the factory gets those that it names
            (or `num_classes` and `in_channels` if it takes any).

    Raises:
        AurepError: the module or the factory is missing, fails, or does not give a torch.nn.Module.
    """
    module_name, _, attribute = name.partition(":")
    with _working_folder_importable():
        factory = _find_factory(name, module_name, attribute)
        arguments = _arguments(name, factory, given, offered)
        try:
            model = factory(**arguments)
        except Exception as error:  # the user's own code, which may raise anything
            passed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise AurepError(
                f"the model factory {attribute!r} of module {module_name!r} failed when called with ({passed}): "
                f"{type(error).__name__}: {error}."
            ) from error
    if not isinstance(model, nn.Module):
        raise AurepError(f"the model factory {name!r} gave a {type(model).__name__}, expected a torch.nn.Module.")
    return model


def _find_factory(name: str, module_name: str, attribute: str) -> Callable[..., Any]:
    if not module_name or not attribute:
        raise AurepError(f"the model {name!r} is not of the form package.module:factory; name both parts.")
    try:
        module = import_module(module_name)
    except Exception as error:  # likewise: importing runs it
        raise AurepError(
            f"the module {module_name!r} of the model {name!r} cannot be imported ({type(error).__name__}: {error}); "
            "install it, or run from the folder that holds it."
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise AurepError(f"the module {module_name!r} has no {attribute!r}; name a callable that it defines.")
    if not callable(factory):
        raise AurepError(f"{attribute!r} in module {module_name!r} is a {type(factory).__name__}, expected a callable.")
    found: Callable[..., Any] = factory
    return found


def _arguments(
    name: str, factory: Callable[..., Any], given: dict[str, Any], offered: dict[str, Any]
) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters.values()
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name for parameter in parameters if parameter.kind in keywords}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for option in given:
        if not takes_any and option not in named:
            raise AurepError(f"the model factory {name!r} takes no {option!r}; leave it out, or add that argument.")
    accepted = named | {"num_classes", "in_channels"} if takes_any else named
    return {key: value for key, value in offered.items() if key in accepted} | given


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    # A console script's import path lacks the working folder, where users keep their own model file.
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
