"""Attention at the skips of a segmentation_models_pytorch U-Net, without importing that package."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._module import check_open
from blan_layers.attention import RAR, RDAM
from blan_layers.networks.blending import Blend
from blan_layers.networks.compiled import forget
from blan_layers.networks.insertion import Insertion, Start, place
from blan_layers.networks.targets import KEY

__all__ = ["attend_skips"]


def attend_skips(
    unet: nn.Module, factory: Callable[..., nn.Module] = RDAM, *, start: Start = "identity", **options: Any
) -> Insertion:
    """Insert attention at every skip of a U-Net that has channels, before a decoder block concatenates it.

    ``skip`` becomes ``attention(skip, features)`` with the decoder's features. With ``start="identity"`` it becomes
    ``skip + a (attention(skip, features) - skip)`` with a learnt ``a`` that starts at zero, so that the outputs of a
    trained network do not change at first. No key of the old ``state_dict`` changes.

    The network must have ``encoder.out_channels`` with the channels of its levels, and ``decoder.blocks`` that take the
    features first and a skip by a name that begins with "skip", like the U-Nets of segmentation_models_pytorch.

    Args:
        unet: The network, changed in place.
        factory: :class:`~blan_layers.RDAM` or another attention module of two maps, called as
            ``factory(skip_channels, feature_channels, **options)``, or with ``decoder_channels=`` if it has that
            argument. The features that it receives are coarser than the skip.
        start: "identity" or "paper".
        **options: Passed to the factory. RDAM resizes by ``resize="nearest"`` unless told otherwise.

    Returns:
        A mapping of block names to their attention; ``remove()`` takes it out again.

    Raises:
        TypeError: ``factory`` does not take the channels of two maps, does not return a module, or returns
            :class:`~blan_layers.RAR`, whose maps must have one size.
        ValueError: The network has a different structure, its skips already have attention, or it is scripted, sharded
            or wrapped for distributed training. In these cases nothing is changed.

    Example:
        >>> import torch
        >>> attend_skips(torch.nn.Linear(2, 2))
        Traceback (most recent call last):
        ...
        ValueError: attend_skips: unet must have encoder.out_channels and decoder.blocks, got a Linear. Pass a U-Net ...
    """
    _checks.factory(factory)
    _checks.choice("start", start, ("identity", "paper"))
    channels = getattr(getattr(unet, "encoder", None), "out_channels", None)
    blocks = getattr(getattr(unet, "decoder", None), "blocks", None)
    if channels is None or not isinstance(blocks, nn.ModuleList | nn.ModuleDict):
        raise ValueError(
            said(
                f"unet must have encoder.out_channels and decoder.blocks, got a {type(unet).__name__}. Pass a U-Net of "
                "segmentation_models_pytorch, or call attention in your own decoder."
            )
        )
    skips = list(channels)[::-1][1:-1]  # from the head down, without the head and without the image itself
    if len(blocks) != len(skips) + 1:
        raise ValueError(
            said(
                f"unet must have a decoder block for each skip and one more, got {len(blocks)} for {len(skips)} skips. "
                "Call attention in the decoder yourself."
            )
        )
    built: list[tuple[str, nn.Module, nn.Module]] = []
    check_open(unet, "decoder.blocks")
    for (key, block), width in zip(blocks.named_children(), skips, strict=False):
        if not width:
            continue  # a level without features, as in MiT encoders
        name = f"decoder.blocks.{key}"
        skip_argument(block, name)
        built.append((name, block, _built(name, block, width, factory, options, start)))
    for _, block, attention in built:
        place(block, attention, block.register_forward_pre_hook(_attend, with_kwargs=True))
    forget()
    return Insertion(unet, {name: attention for name, _, attention in built})


def skip_argument(block: nn.Module, name: str) -> tuple[int, str]:
    """Return the position and the name of the skip among a block's arguments."""
    parameters = list(inspect.signature(block.forward).parameters)
    found = [(place, key) for place, key in enumerate(parameters) if key.startswith("skip")]
    if not found or found[0][0] == 0:
        raise ValueError(
            said(
                f"{name} must take features first and a skip by a name that begins with 'skip', got {parameters}. "
                "Call attention in the decoder yourself."
            )
        )
    return found[0]


def _attend(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward pre-hook that replaces the skip among the block's arguments by the attended skip."""
    place, key = skip_argument(block, type(block).__name__)
    skip: Tensor | None = kwargs.get(key, args[place] if len(args) > place else None)
    if skip is None:
        return args, kwargs
    features = args[0] if args else kwargs[next(iter(inspect.signature(block.forward).parameters))]
    attended = block.get_submodule(KEY)(skip, features)
    if key in kwargs:
        return args, {**kwargs, key: attended}
    return (*args[:place], attended, *args[place + 1 :]), kwargs


def _built(
    name: str, block: nn.Module, width: int, factory: Callable[..., nn.Module], options: dict[str, Any], start: Start
) -> nn.Module:
    if KEY in block._modules:
        raise ValueError(
            said(
                f"{name} must not already have attention at its skip, got one that has. "
                "Call remove() of what was returned for it, or build the network again."
            )
        )
    first = next((part for part in block.modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    if first is None or first.in_channels <= width:
        raise ValueError(
            said(
                f"{name} must begin with a convolution of features and a skip of {width} channels, got input channels "
                f"{None if first is None else first.in_channels}. Call attention in the decoder yourself."
            )
        )
    given: dict[str, Any] = {"device": first.weight.device, "dtype": first.weight.dtype, "resize": "nearest"} | options
    accepted = inspect.signature(factory).parameters
    given = {key: value for key, value in given.items() if key in accepted or key in options}
    features = first.in_channels - width
    by_name = "decoder_channels" in accepted
    if not by_name:
        try:
            inspect.signature(factory).bind_partial(width, features)
        except TypeError:
            raise TypeError(
                said(
                    f"factory must take the channels of two maps, got {factory!r}, which does not. "
                    "Pass RDAM or AttentionGate, or a function of both numbers that builds attention of two maps."
                )
            ) from None
    attention = factory(width, decoder_channels=features, **given) if by_name else factory(width, features, **given)
    if isinstance(attention, RAR):
        raise TypeError(
            said(
                "factory must build attention that resizes the decoder's features, got RAR. Pass RDAM or AttentionGate."
            )
        )
    if not isinstance(attention, nn.Module):
        raise TypeError(
            said(f"factory must return a torch.nn.Module, got {type(attention).__name__}. Pass a class such as RDAM.")
        )
    placed = attention if start == "paper" else Blend(attention, first.weight.device, first.weight.dtype)
    return placed.train(block.training)
