"""The names of the served model, and what ``/v1/models`` says about each."""

import contextlib

from vllm_mlx.core.card import ModelCard
from vllm_mlx.engine.base import Engine
from vllm_mlx.errors import EngineStopped, UnknownModel
from vllm_mlx.settings import ApiSettings
from vllm_mlx.wire.openai_models import ModelEntry

DEFAULT = "default"


class ServedModel:
    """Names may be asked at any time; the card only once the model is loaded."""

    def __init__(self, engine: Engine, settings: ApiSettings) -> None:
        self._engine, self._settings = engine, settings
        self._seen: str | None = settings.served_name

    @property
    def card(self) -> ModelCard:
        """Raises EngineStopped before the model is loaded."""
        return self._engine.card

    @property
    def name(self) -> str:
        return self._settings.served_name or self.card.id

    @property
    def names(self) -> tuple[str, ...]:
        """The served name first, then the model's own names, the aliases, and ``default``."""
        given = (self.name, *self.card.names[:-1], *self._settings.aliases, DEFAULT)
        return tuple(dict.fromkeys(given))

    def name_if_known(self) -> str | None:
        """None before the model is loaded; remembered when it is gone. Never raises."""
        with contextlib.suppress(EngineStopped):
            self._seen = self.name
        return self._seen

    def label(self) -> str:
        """For metrics."""
        return self.name_if_known() or DEFAULT

    def resolve(self, asked: str | None) -> str:
        """The name to answer with: the one asked. Raises UnknownModel, EngineStopped."""
        if asked is None:
            return self.name
        if asked not in self.names:
            raise UnknownModel(asked, self.names)
        return asked

    def describe(self, name: str) -> ModelEntry:
        card = self.card
        return ModelEntry(
            id=name,
            created=card.created,
            root=card.id,
            parent=None if name == self.name else self.name,
            max_model_len=card.context_tokens,
            context_length=card.context_tokens,
            architecture=card.architecture,
            mode=card.mode,
            mode_reason=card.mode_reason,
            dtype=card.dtype,
            vocab_size=card.vocab_tokens,
            weights_bytes=card.weights_bytes,
            kv_bytes_per_token=card.kv_bytes_per_token,
            modalities=list(card.modalities),
            capabilities=card.capabilities,
            sampling_defaults=card.sampling_defaults,
            notes=list(card.notes),
        )
