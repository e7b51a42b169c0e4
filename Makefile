# `make help` lists the targets. Everything is installed by the targets that need it; nothing is downloaded but packages.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Where containers set it, each of thousands of programs in the tests would compile Berth again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 2222
WEB_PORT ?= 8080
LABS ?= 3
ALL_LABS ?= 4
SCRIPTS := $(shell git ls-files '*.sh' broker/job/inside/sudo .ci/run broker/cli/berth slurm/vm/files/usr/local/sbin/mount-shared 2>/dev/null)

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: demo
demo: ## a real cluster on this machine, a session on a GPU node, and ssh into it; OFFLINE=1: sessions without registries (root)
	@$(PYTHON) -m tests.site.demo --port $(PORT) --web-port $(WEB_PORT) $(if $(OFFLINE),--offline)

.PHONY: shell
shell: ## alice's shell on the lab's login node
	@$(PYTHON) -m slurm.lab exec --user alice --tty login -- bash -l

.PHONY: portal
portal: ## a link, for a minute, that logs this machine's browser in as alice at the demo's portal
	@$(PYTHON) -m slurm.lab exec --user alice login -- berth portal --print

.PHONY: lab-down
lab-down: ## take the lab, and everything on it, away
	@$(PYTHON) -m slurm.lab down
	@rm -f build/ssh_config build/known_hosts build/alice_key build/alice_key.pub

.PHONY: check
check: $(VENV)/ready shellcheck ## format, lint, types, import rules (no root, no lab)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	shellcheck $(SCRIPTS)
	$(BIN)/python -m broker.job.bundle build/job
	shellcheck build/job/*.sh
	for script in build/job/*.sh; do bash -n $$script || exit; done

.PHONY: test
test: $(VENV)/ready test-programs ## every test, on labs of its own (root)
	@$(if $(ARGS),$(PYTHON) -m tests.site.run --labs $(LABS) --older $(BIN)/pytest -m "not soak and not vm" $(ARGS),\
		$(PYTHON) -m tests.site.lanes --labs $(ALL_LABS) $(BIN)/pytest)

.PHONY: durations
durations: $(VENV)/ready ## take the seconds of the last run of all tests into tests/durations.json
	$(BIN)/python -m tests.durations

.PHONY: unit
unit: $(VENV)/ready ## the tests that start nothing: neither root nor lab
	$(BIN)/pytest tests/unit tests/docs -m "not soak" $(ARGS)

.PHONY: component
component: $(VENV)/ready ## the tests of one part with real programs (no lab)
	$(BIN)/pytest tests/component -m "not soak" $(ARGS)

.PHONY: soak
soak: $(VENV)/ready test-programs ## the long forms of the tests (root)
	@$(PYTHON) -m tests.site.run $(BIN)/pytest -m "soak and not vm" $(ARGS)
	@$(if $(ARGS),,$(MAKE) --no-print-directory vm-soak)

.PHONY: vm-test
vm-test: $(VENV)/ready vm-programs ## tests on virtual machines with systemd, cgroup v2 and NFS, the short form (root)
	@$(PYTHON) -m tests.site.vm run --sites $(or $(SITES),short) $(BIN)/pytest -m "vm and short" tests/vm $(ARGS)

.PHONY: vm-soak
vm-soak: $(VENV)/ready vm-programs ## the long form: all tests on all sites, or on SITES=nfs-ext4,nfs-xfs (root)
	@$(PYTHON) -m tests.site.vm run $(if $(SITES),--sites $(SITES)) $(BIN)/pytest -m vm tests/vm $(ARGS)

.PHONY: vm-bench
vm-bench: $(VENV)/ready vm-programs ## measure volumes on NFS in that machine against cp -a and a bare directory (root)
	@$(PYTHON) -m tests.site.vm run --sites $(or $(SITES),nfs-ext4$(comma)nfs-xfs) $(BIN)/python -m tests.bench.file_server $(ARGS)
comma := ,

.PHONY: vm-shell
vm-shell: vm-programs ## a shell on that machine, started if it does not run: SITE=ext4 USER_NAME=root (root)
	@$(PYTHON) -m tests.site.vm shell $(if $(SITE),--site $(SITE)) --user $(USER_NAME)
USER_NAME ?= root

.PHONY: vm-push
vm-push: ## install the checkout's code on the machine of vm-shell, and restart the services
	@$(PYTHON) -m tests.site.vm push

.PHONY: vm-down
vm-down: ## end the machine of vm-shell
	@$(PYTHON) -m tests.site.vm down

.PHONY: bench
bench: $(VENV)/ready test-programs bench-programs ## measure against bare Slurm and OpenSSH; writes build/bench.json (root); on NFS: vm-bench
	@$(PYTHON) -m tests.site.run $(BIN)/python -m tests.bench $(ARGS)

.PHONY: docs
docs: $(VENV)/ready ## write the generated pages, and wrap all pages
	$(BIN)/python -m tests.docs.generate

.PHONY: picture
picture: $(VENV)/ready ## make the pictures of README, tutorial and `berth tui` from sessions on the demo's lab (root)
	@PORT=$(PORT) $(BIN)/python -m tests.site.picture

.PHONY: web-pictures
web-pictures: $(VENV)/ready test-programs ## make the pictures of the portal, JupyterLab, VS Code and the terminal, in Chromium on the demo's lab (root)
	@$(BIN)/python -m tests.site.web_pictures

.PHONY: lock
lock: $(VENV)/ready ## lock the dependencies anew, with hashes and without addresses
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile $(LOCK) $(BERTH) -o requirements.lock
	$(BIN)/uv pip compile $(LOCK) --group dev -c requirements.lock $(BERTH) -o requirements-dev.lock
	$(BIN)/uv pip compile $(LOCK) --group workflows -o requirements-workflows.lock
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
BERTH := --extra postgresql pyproject.toml

.PHONY: audit
audit: $(VENV)/ready ## compare the locked dependencies with a database of known vulnerabilities: OSV=FILE
	@$(BIN)/python -m tests.release.audit '$(OSV)'
OSV ?=

.PHONY: sbom
sbom: $(VENV)/ready ## write the list of materials of the release, CycloneDX, to build/sbom.json
	@$(BIN)/python -m tests.release.sbom build/sbom.json

.PHONY: packages
packages: ## build Debian and RPM packages for this machine's distribution in build/packages; KINDS=deb for one of them
	@$(PYTHON) -m tests.site.programs python3-venv $(if $(filter rpm,$(KINDS)),rpm)
	@$(PYTHON) -m tests.release.packages $(KINDS)
KINDS ?= deb rpm

$(VENV)/ready: requirements-dev.lock
	@echo "installing the development environment into $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv fails: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: shellcheck test-programs bench-programs vm-programs
shellcheck:
	@command -v shellcheck >/dev/null || $(PYTHON) -m tests.site.programs shellcheck
test-programs:
	@$(PYTHON) -m tests.site.programs postgresql openssh-server openssh-client squashfs-tools xfsprogs btrfs-progs \
		fuse-overlayfs git curl rsync sshfs putty-tools nftables systemd tmux xauth chromium haproxy \
		nginx openssl npm mmdebstrap zstd docker-registry skopeo buildah busybox-static python3-venv rpm prometheus
bench-programs:
	@$(PYTHON) -m tests.site.programs wrk nodejs npm
vm-programs:
	@$(PYTHON) -m tests.site.programs qemu-system-x86 qemu-utils mmdebstrap openssh-client xfsprogs git
