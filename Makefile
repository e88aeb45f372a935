# recorder: the commands. `make` alone lists them.

CARGO ?= cargo
.DEFAULT_GOAL := help
.PHONY: help demo test test-long readers wiresharks test-kernels samples deb test-deb accuracy bench bench-procfs bench-compression bench-reading bench-replay
.PHONY: install-deps check-macos ebpf fuzz lint doc

help:
	@echo 'make demo          build, record a few short-lived programs, show who sent what'
	@echo 'make test          all tests that this machine allows (live ones need root); says what it skips'
	@echo 'make test-long     record without a pause for LONG=300 seconds: memory, descriptors and counters stay right (root)'
	@echo 'make wiresharks    unpack Wireshark 4.4 and 4.6 into target/wireshark, so that `make test` reads our files with them too'
	@echo 'make readers       write the table of docs/FORMAT.md anew: what other programs keep of our files (root)'
	@echo 'make test-kernels  record on Linux 5.10, 6.1, 6.12 and the newest in emulated machines, and judge (Debian, root; minutes)'
	@echo 'make samples       record the samples with kept events anew, on the same kernels (Debian, root; minutes)'
	@echo 'make deb           build the Debian package (installs cargo-deb by cargo if it is missing)'
	@echo 'make test-deb      build it, install it on a bare Debian 12 in a folder, record as an ordinary user, remove it (root)'
	@echo 'make accuracy      how often the owners are right, by scenario; writes docs/ACCURACY.md (root; forty minutes)'
	@echo 'make bench         measure against tcpdump and dumpcap, and write docs/PERFORMANCE.md (root; minutes)'
	@echo 'make bench-procfs  measure the look-up of sockets against the listeners crate (root)'
	@echo 'make bench-compression  measure size and CPU by level of compression (root; minutes)'
	@echo 'make bench-replay  measure how fast and how well in time recordings are sent, beside tcpreplay (root)'
	@echo 'make bench-reading  measure how fast a file of a gigabyte is printed, against tcpdump (root; minutes)'
	@echo 'make fuzz          run each fuzz target for ten minutes, or as long as is said: make fuzz SECONDS=60 TARGETS="read copy"'
	@echo 'make lint          format, clippy, as CI does'
	@echo 'make check-macos   type-check for aarch64-apple-darwin and x86_64-apple-darwin (rustup)'
	@echo 'make doc           documentation, warnings are errors'
	@echo 'make ebpf          rebuild the committed eBPF object (installs its own compiler)'
	@echo 'make install-deps  install what building and testing need (Debian 12; root or sudo)'

demo:
	sh tests/install-deps demo
	$(CARGO) build --release --bin recorder --bin traffic
	sh tests/demo

# The programs first: the tests run them as a user would.
test:
	sh tests/install-deps test
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace

# An hour: make test-long LONG=3600
LONG ?= 300
test-long:
	sh tests/install-deps test
	$(CARGO) build --release --workspace --bins
	LONG_RUN_SECONDS=$(LONG) $(CARGO) test --release -p recorder-tests --test long_run

wiresharks:
	sh tests/install-wiresharks

readers: wiresharks
	sh tests/install-deps test
	$(CARGO) build --workspace --bins
	CI=true WRITE_TABLES=1 $(CARGO) test -p recorder-tests --test readers saved_again

# Which kernels, or other arguments: make test-kernels KERNELS=5.10
KERNELS ?=
test-kernels:
	sh tests/install-deps kernels
	$(CARGO) build --release --workspace --bins
	sh tests/run-built release kernels $(KERNELS)

# The recordings of samples/kept anew: make samples KERNELS=6.12
samples:
	sh tests/install-deps kernels
	$(CARGO) build --release --workspace --bins
	mkdir -p samples/kept
	sh tests/run-built release kernels --samples samples/kept $(KERNELS)

deb:
	sh tests/install-deps deb
	sh recorder/debian/build

test-deb: deb
	sh tests/install-deps test-deb
	$(CARGO) build --release -p recorder-tests --bin package --bin traffic
	sh tests/run-built release package "$$(ls -t "$${CARGO_TARGET_DIR:-target}"/debian/recorder_*.deb | head -n 1)"

# Arguments for the accuracy suite: make accuracy ACCURACY=--quick
ACCURACY ?= --attribution ebpf,procfs --write docs/ACCURACY.md
accuracy:
	sh tests/install-deps test
	$(CARGO) build --release --workspace --bins
	sh tests/run-built release accuracy $(ACCURACY)

# Arguments for the benchmark: make bench BENCH=--quick
BENCH ?= --write docs/PERFORMANCE.md
bench:
	sh tests/install-deps test
	$(CARGO) build --release --workspace --bins
	sh tests/run-built release bench $(BENCH)

bench-procfs:
	$(CARGO) build --release -p recorder-tests --bin bench
	sh tests/run-built release bench lookup --write docs/PERFORMANCE.md

bench-compression:
	sh tests/install-deps test
	$(CARGO) build --release --workspace --bins
	sh tests/run-built release bench compression --write docs/PERFORMANCE.md

bench-replay:
	sh tests/install-deps test
	$(CARGO) build --release --workspace --bins
	sh tests/run-built release bench replay --write docs/PERFORMANCE.md

bench-reading:
	sh tests/install-deps test
	$(CARGO) build --release --workspace --bins
	sh tests/run-built release bench reading --write docs/PERFORMANCE.md

# How long each runs, and which; all if none is named.
SECONDS ?= 600
TARGETS ?=
fuzz:
	sh tests/install-deps fuzz
	sh fuzz/run $(SECONDS) $(TARGETS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Type-checks for both kinds of Mac; installs the targets by rustup if they are missing.
check-macos:
	sh tests/check-macos

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

install-deps:
	sh tests/install-deps test

ebpf:
	sh recorder-ebpf/install-toolchain
	sh recorder-ebpf/build
