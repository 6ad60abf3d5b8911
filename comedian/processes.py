"""
Exchange between the processes of a run: gather, mean, barrier. If a process runs alone, each of
these functions returns its argument.
"""
import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_reduce


def all_gather(x):
    """The rows of x (n, ...) of all processes, in the order of their ranks; without gradient."""
    if not dist.is_initialized():
        return x
    everyone = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, x.contiguous())
    return torch.cat(everyone)


def all_gather_objects(what):
    """[what], from every process, in the order of their ranks."""
    if not dist.is_initialized():
        return [what]
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, what)
    return everyone


def mean_of_all(x):
    """The mean of x over all processes, which have equally many clips; gradients flow back to
    each."""
    if not dist.is_initialized():
        return x
    return all_reduce(x) / dist.get_world_size()


def barrier():
    """Waits until all processes are here."""
    if dist.is_initialized():
        dist.barrier()
