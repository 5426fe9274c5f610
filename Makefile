# 渡口 Dukou: everything that people run. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo up down status test check bench clean
# Bytecode is compiled once at set-up; without it every Airflow process compiles everything again.
unexport PYTHONDONTWRITEBYTECODE

CASES ?= 20
SCENARIO ?= main
KEEP ?=
ONLY ?=
ENGINE ?= sqlite
ARGS ?=

# The production engines: PostgreSQL for the ledger and for Airflow (two databases), RabbitMQ for hints.
ifeq ($(ENGINE),postgres)
export DUKOU_DATABASE_URL ?= postgresql://postgres@127.0.0.1:5432/dukou
export DUKOU_AIRFLOW_DATABASE_URL ?= postgresql://postgres@127.0.0.1:5432/dukou_airflow
export DUKOU_BROKER_URL ?= amqp://guest:guest@127.0.0.1:5672//
endif

PY := .venv/bin/python
DUKOU := .venv/bin/dukou
PICKED := $(if $(ONLY),--only $(ONLY))

help: ## 列出全部目标 / this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  变量 / variables: CASES=20 SCENARIO=main|all KEEP=1 (demo)  ONLY=gateway,courier,sandbox,airflow (up, down)  ENGINE=sqlite|postgres (demo, up)  ARGS=… (test)'

setup: ## 安装依赖，准备数据库、密钥与演示凭据 / dependencies, databases, keys, demo credentials
	@deploy/install run
	@$(DUKOU) setup

demo: ## 启动全部并跑完演示 / start everything, run the demo, stop
	@begun=$$(date +%s.%N); $(MAKE) --no-print-directory setup; \
	 took=$$(awk -v a=$$begun -v b=$$(date +%s.%N) 'BEGIN {printf "%.1f", b - a}'); \
	 $(DUKOU) demo --cases $(CASES) --scenario $(SCENARIO) --setup-seconds $$took $(if $(KEEP),--keep)

up: setup ## 启动服务并等到正常 / start the services, wait until they are healthy
	@$(DUKOU) supervise up $(PICKED)

down: ## 停止服务 / stop the services
	@if [ -x $(DUKOU) ]; then $(DUKOU) supervise down $(PICKED); fi

status: ## 服务状态 / how the services are
	@$(DUKOU) supervise status

test: ## 单元、契约、架构与集成测试 / all tests (REQUIRE_SERVICES=1: services must answer)
	@deploy/install dev
	@$(PY) -m pytest $(ARGS)

check: ## 格式、规范、类型、导入、声明 / format, lint, types, imports, declarations
	@deploy/install dev
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy --no-error-summary
	@said=$$(.venv/bin/lint-imports --no-logo 2>&1) || { echo "$$said"; exit 1; }
	@$(DUKOU) check

bench: ## 性能数据（尚无）/ the published figures (not yet)
	@echo "尚无性能测量 / not done yet: no measurements exist (README, Not done yet)" >&2; exit 1

clean: down ## 停止服务，删除 var/ 与缓存 / stop, then remove var/ (with its keys!) and caches
	rm -rf var .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
