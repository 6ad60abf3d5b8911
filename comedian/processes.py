"""
What the processes of a run tell each other. One that runs alone has nobody to tell, and each of
these then gives back what it got.
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
    """[what], as each process says it, in the order of their ranks."""
    if not dist.is_initialized():
        return [what]
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, what)
    return everyone


def mean_of_all(x):
    """The mean of x over all processes, which have as many clips each; gradients flow back to
    every one of them."""
    if not dist.is_initialized():
        return x
    return all_reduce(x) / dist.get_world_size()


def barrier():
    """Waits until all processes are here."""
    if dist.is_initialized():
        dist.barrier()
