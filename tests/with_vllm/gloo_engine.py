"""vLLM's weight transfer engine `nccl` over gloo, between two processes without GPUs.

The process of a sampler runs `main`, with the receiving end registered in vLLM; `Gloo` is the sending end.
"""

from datetime import timedelta

import torch
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from dgpo.rollout import background, transfer


def join(port: int, rank: int):
    patience = {"timeout": timedelta(seconds=600)}
    return stateless_init_torch_distributed_process_group(transfer._HERE, port, rank, 2, "gloo", **patience)


class GlooEngine(NCCLWeightTransferEngine):
    def init_transfer_engine(self, init_info):
        assert (init_info.master_address, init_info.world_size) == (transfer._HERE, 2)
        self.group = join(init_info.master_port, init_info.rank_offset)

    def update_weights(self, update_info):
        """As the base class without a GPU to wait for."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info):
        described = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        for name, dtype, shape in described:
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.broadcast(weight, 0).wait()
            self.model.load_weights([(name, weight)])

    def shutdown(self):
        self.group = None


class Gloo(transfer.Nccl):
    backend = "gloo"

    def _open(self, port):
        return join(port, 0)

    def hand_over(self, tensor):
        self.group.broadcast(tensor.detach().contiguous(), 0).wait()


def main(*arguments: str) -> int:
    WeightTransferEngineFactory.register_engine("gloo", GlooEngine)
    return background.main(*arguments)
