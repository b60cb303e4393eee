"""What the resources share. Made once in ``app.py``, passed to each."""

from msgspec import Struct

from vllm_mlx.api.body import BodyReader
from vllm_mlx.api.offload import Offload
from vllm_mlx.api.respond import Responder
from vllm_mlx.api.running import RunningAnswers
from vllm_mlx.api.served import ServedModel
from vllm_mlx.dialect.base import RequestLimits
from vllm_mlx.engine.base import Engine


class Services(Struct, frozen=True, kw_only=True):
    engine: Engine
    served: ServedModel
    bodies: BodyReader
    offload: Offload
    responder: Responder
    running: RunningAnswers
    limits: RequestLimits
