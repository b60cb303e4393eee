# lint, types and the rules of the house
check:
    uv run ruff check
    uv run ruff format --check
    uv run mypy
    uv run pytest -q tests/house

# all but the slow tests
test:
    uv run pytest -q -m "not slow"

# wheel and editable install on every Python of this machine
smoke:
    uv run pytest -q tests/install

# everything, as on a fresh clone
ci:
    .ci/run

# write docs/configuration.md anew
docs:
    uv run python docs/make_configuration.py

# let ruff change what it can
format:
    uv run ruff check --fix
    uv run ruff format
