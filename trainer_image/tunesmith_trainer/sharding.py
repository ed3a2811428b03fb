"""A model that the ranks hold in parts: FSDP2, torch's `fully_shard`.

Each rank holds a slice of every weight, of its gradient and of the optimizer's state; a layer is
gathered when it is computed (Zhao et al. 2023, arXiv:2304.11277). Every function here that names no
exception is called by all ranks at once. Called by `recipe`, `loop`, `checkpoints`, `examination`;
must not know about steps or files.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.outcome import UserError

_META, _CPU = torch.device("meta"), torch.device("cpu")


def load_sharded(
    load: Callable[[torch.device], nn.Module], ranks: Ranks, compute: torch.dtype | None
) -> nn.Module:
    """Give the model that `load` loads to a device, in parts on the ranks' devices.

    Rank 0 alone reads the weights, into its host memory, and hands them out one by one, so neither
    a GPU nor a node's memory ever has to hold more than one whole model. `compute` is the type
    that weights are gathered in; None leaves them as they are kept. Raises what `load` raises,
    UserError ModelInvalid on the ranks for which rank 0 could not load, and UserError InvalidRun
    for a model that does not name its layers.
    """
    model = load(_META)
    whole = _load_on_main(load, ranks)
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    _shard(model, mesh, compute)
    model.to_empty(device=ranks.device)
    _hand_out(whole, model, mesh)
    return model


def _load_on_main(load: Callable[[torch.device], nn.Module], ranks: Ranks) -> nn.Module | None:
    whole, error = None, None
    if ranks.is_main:
        try:
            whole = load(_CPU)
        except Exception as caught:
            error = caught
    # Nobody may wait for weights that do not come.
    is_failed = ranks.from_main(error is not None)
    if error is not None:
        raise error
    if is_failed:
        raise UserError(UserErrorReason.MODEL_INVALID, "Rank 0 could not load the weights.")
    return whole


def _shard(model: nn.Module, mesh: DeviceMesh, compute: torch.dtype | None) -> None:
    # Gradients are added up in float32 whatever the weights are gathered in. The inputs of layers
    # are no business of the policy: they have the type that the layer before gave them.
    policy = MixedPrecisionPolicy(
        param_dtype=compute,
        reduce_dtype=torch.float32 if compute else None,
        cast_forward_inputs=False,
    )
    # Below the adapter's wrapper, because generation calls that model without it.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    names = set(getattr(base, "_no_split_modules", None) or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"The model, a {type(base).__name__}, does not name its layers, so it cannot be parted"
            " with FSDP. Set compute.sharding to DDP.",
        )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # What is outside the layers, such as embeddings and output layer, stays gathered from the
    # first forward pass to the end of the backward pass: the loss uses it in between.
    fully_shard(base, mesh=mesh, mp_policy=policy)


def _hand_out(whole: nn.Module | None, model: nn.Module, mesh: DeviceMesh) -> None:
    weights = dict(whole.named_parameters()) if whole else {}
    buffers = dict(whole.named_buffers()) if whole else {}
    with torch.no_grad():
        for name, part in model.named_parameters():
            if whole:
                full = weights.pop(name).detach().to(part.device)
            else:
                full = torch.empty(part.shape, dtype=part.dtype, device=part.device)
            part.copy_(distribute_tensor(full, mesh, part.placements))  # type: ignore[attr-defined]
        for name, buffer in model.named_buffers():
            if whole:
                buffer.copy_(buffers[name])
            torch.distributed.broadcast(buffer, 0)


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give the weights that are trained, by name, in parts where the model is in parts."""
    reshard(model)
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def reshard(model: nn.Module) -> None:
    """Let go of what is still gathered from a forward pass; this rank alone may call it.

    While a weight is gathered, the module shows the whole one, which no optimizer may take hold of.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def without_exchange(model: nn.Module) -> Iterator[None]:
    """Keep whole gradients on each rank in the backward passes inside."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in parts:
        module.set_requires_gradient_sync(False, recurse=False)
    try:
        yield
    finally:
        for module in parts:
            module.set_requires_gradient_sync(True, recurse=False)


@contextmanager
def gathered_ends(model: nn.Module) -> Iterator[None]:
    """Gather what is outside the layers, for callers of a part of the model other than its whole.

    Layers gather themselves.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            break  # the outermost: the others are its layers
    try:
        yield
    finally:
        reshard(model)


def gather_into(target: nn.Module | None, model: nn.Module) -> None:
    """Copy the trained weights of `model` into `target`, a whole one, on the ranks that have it."""
    whole = dict(target.named_parameters()) if target else {}
    with torch.no_grad():
        for name, part in trained_weights(model).items():
            full = part.full_tensor() if isinstance(part, DTensor) else part
            if target:
                whole[name].copy_(full)


def placed_like(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Give this rank's part of `full`, parted as `like` is; `full` itself where that is whole.

    Every rank has all of `full`; nothing is exchanged.
    """
    if not isinstance(like, DTensor):
        return full
    part = distribute_tensor(
        full.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
    # A copy: the part would keep all of `full` in memory.
    return torch.empty_like(like, dtype=full.dtype).copy_(part)
