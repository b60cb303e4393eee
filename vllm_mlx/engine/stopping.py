"""Stop strings: found across token borders, never shown, and nothing held back for longer than
it could still become one."""


class StopStrings:
    """Watches the text of one sequence for any of ``stops``."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self.match: str | None = None

    def feed(self, text: str) -> str:
        """Text that is certainly not part of a stop string; sets ``match`` when one is complete.

        Of several that are complete the one that begins first counts, then the longer one.
        """
        if not self._stops:
            return text
        held = self._held + text
        places = [(held.find(stop), -len(stop), stop) for stop in self._stops if stop in held]
        if places:
            place, _, self.match = min(places)
            self._held = ""
            return held[:place]
        keep = self._overlap(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def pass_over(self, text: str) -> str:
        """Text that may not stop yet (min_tokens): nothing is held back or found."""
        held, self._held = self._held, ""
        return held + text

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
