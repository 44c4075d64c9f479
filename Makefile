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

test: check unit
	$(VENV)/pytest -m "(ray or vllm) and not slow and not gpu" --durations=30

# In several processes; those with a Ray or an engine of many processes run one after the other.
unit: $(STAMP)
	$(VENV)/pytest -n logical --maxprocesses=8 --dist worksteal -m "not ray and not vllm and not slow and not gpu" --durations=15

check: $(STAMP)
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
