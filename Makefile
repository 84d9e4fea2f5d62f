# Everything a developer or CI does with this repository. `make help` lists the targets.
#
# One target folder, one release profile and one set of RUSTFLAGS (.cargo/config.toml) for verify, test,
# run and bench: RocksDB takes many minutes to compile and must be compiled once. Never set RUSTFLAGS here.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ottla-target)
CARGO_DENY := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ottla-tools/bin/cargo-deny
OTTLA := $(CARGO_TARGET_DIR)/release/ottla

# Arguments of `make run`, for example: make run ARGS='--set log.dirs=/srv/ottla'
ARGS ?=
# Which tests, for example: make test TESTS='--test clients_kcat'. Setting it leaves the rest of `make test` out.
TESTS ?=

say = @printf '\n== %s (%s)\n' '$(1)' "$$(date +%T)"

.PHONY: help
help: ## this list
	@printf 'make TARGET, where TARGET is one of\n\n'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 12
	@printf '\nBuilt files go to %s\n' '$(CARGO_TARGET_DIR)'

.PHONY: run
run: setup-build ## build in release mode and serve on 127.0.0.1:9092 (ARGS='--set key=value' for more)
	cargo build --release --locked -p ottla
	exec '$(OTTLA)' serve $(ARGS)

.PHONY: test
test: setup-build setup-clients ## every test: units, wire, real clients, kill and restart, a short fuzz run, start-up time
ifneq ($(TESTS),)
	cargo build --release --locked -p ottla
	cargo test --release --workspace --locked $(TESTS)
else
	$(call say,build the broker)
	cargo build --release --locked -p ottla
	$(call say,fuzz targets: 20 s each)
	scripts/fuzz 20
	$(call say,start-up time and idle memory)
	scripts/startup
	$(call say,crates without RocksDB with debug assertions and overflow checks)
	cargo test --locked -p ottla-protocol -p ottla-coordinator
	$(call say,all crates in the release profile with real clients and restarts)
	cargo test --release --workspace --locked
endif

.PHONY: verify
verify: setup-build setup-kafka ## read only: format, lints, docs, licences, generated files
	$(call say,format)
	cargo fmt --all --check
	$(call say,lints)
	cargo clippy --release --workspace --all-targets --locked -- -D warnings
	$(call say,unsafe code: one file)
	test "$$(git grep -lE '(allow|expect)\(.*unsafe_code' -- '*.rs')" = storage/src/rocks/native.rs
	$(call say,documentation)
	RUSTDOCFLAGS='-D warnings' cargo doc --release --workspace --no-deps --locked
	$(call say,licences and sources of dependencies)
	'$(CARGO_DENY)' --locked check bans licenses sources
	$(call say,generated code and tables)
	scripts/generate-guard --check
	cargo build --release --locked -p ottla
	'$(OTTLA)' tables --check README.md

.PHONY: fix
fix: setup-build setup-kafka ## write what verify would complain about, where a tool can
	cargo clippy --release --workspace --all-targets --locked --fix --allow-dirty --allow-staged
	cargo fmt --all
	scripts/generate-guard
	cargo build --release --locked -p ottla
	'$(OTTLA)' tables --write README.md

.PHONY: fuzz
fuzz: setup-build ## fuzz each target for SECONDS_EACH (default 60)
	scripts/fuzz $(or $(SECONDS_EACH),60)

.PHONY: soak
soak: setup-build setup-clients ## long runs: 10 minutes per fuzz target, the restart run OTTLA_RESTART_ROUNDS times (default 10), groups for OTTLA_STORM_SECONDS (600), OTTLA_SOAK_KILLS (200), _POWER_CUTS (50), _FULL_DISKS (20), a restart with OTTLA_SOAK_MEGABYTES (5000), OTTLA_SOAK_MANY_PARTITIONS (10000), OTTLA_DAMAGES (200)
	cargo build --release --locked -p ottla
	scripts/fuzz 600
	OTTLA_RESTART_ROUNDS=$(or $(OTTLA_RESTART_ROUNDS),10) cargo test --release --locked -p ottla-integration-tests --test restart -- --test-threads=1 --nocapture
	OTTLA_STORM_SECONDS=$(or $(OTTLA_STORM_SECONDS),600) cargo test --release --locked -p ottla-integration-tests --test restart_groups -- --nocapture
	OTTLA_SOAK_KILLS=$(or $(OTTLA_SOAK_KILLS),200) OTTLA_SOAK_POWER_CUTS=$(or $(OTTLA_SOAK_POWER_CUTS),50) OTTLA_SOAK_FULL_DISKS=$(or $(OTTLA_SOAK_FULL_DISKS),20) OTTLA_SOAK_MEGABYTES=$(or $(OTTLA_SOAK_MEGABYTES),5000) OTTLA_SOAK_PARTITIONS=$(or $(OTTLA_SOAK_PARTITIONS),1000) OTTLA_SOAK_MANY_PARTITIONS=$(or $(OTTLA_SOAK_MANY_PARTITIONS),10000) cargo test --release --locked -p ottla-integration-tests --test soak -- --test-threads=1 --nocapture
	OTTLA_DAMAGES=$(or $(OTTLA_DAMAGES),200) cargo test --release --locked -p ottla-integration-tests --test damages -- --nocapture
	OTTLA_RETENTION_MIB=$(or $(OTTLA_RETENTION_MIB),6000) cargo test --release --locked -p ottla-integration-tests --test retention mixed -- --nocapture

.PHONY: bench
bench: setup-build setup-bench ## Ottla and Apache Kafka under the same load, ratios to docs/BENCHMARKS.md (scripts/bench -h tells more)
	cargo build --release --locked -p ottla
	scripts/bench

.PHONY: setup-build setup-kafka setup-bench setup-clients
setup-build:
	@scripts/setup build
setup-kafka:
	@scripts/setup kafka
setup-bench:
	@scripts/setup bench
setup-clients:
	@scripts/setup clients
