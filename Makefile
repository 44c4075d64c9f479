# The two commands: `make demo` and `make test`. Each makes .venv first where it is not there.
.PHONY: setup demo serve test unit check clean
.SUFFIXES:

VENV := .venv/bin
STAMP := .venv/raymill-installed

setup: $(STAMP)

# The stamp is older than its sources only when a pin or the package's own metadata changed.
$(STAMP): requirements/cpu.lock requirements/install.sh pyproject.toml
	@requirements/install.sh

demo: $(STAMP)
	@$(VENV)/raymill run pipelines/recipes/demo.yaml

serve: $(STAMP)
	@$(VENV)/raymill serve pipelines/recipes/demo.yaml

test: check
	$(VENV)/pytest -m "not slow and not gpu" --durations=30

unit: $(STAMP)
	$(VENV)/pytest -m "not ray and not vllm and not slow and not gpu"

check: $(STAMP)
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
