# Drover. Everything there is to know:
#
#   make            build the programs into build/
#   make demo       the main job on a real IPVS kernel, in a lab: watch it
#   make test       everything: unit tests with the race detector, fuzz seeds, the real kernel, the labs
#   make bench      tables against ipvsadm on the same kernel; what checks cost, and a cluster of 10, 100, 1000 agents
#   make faults     what each fault of a director and of a real server costs, over 20 rounds, beside keepalived
#   make soak       what takes long: fuzzing, command lines beside ipvsadm, killed directors, partitions, every lab ten times
#   make lint       gofmt, vet, staticcheck
#   make vuln       govulncheck
#   make generate   write again what is generated from the code
#   make install    programs, unit files and example configurations below $(DESTDIR)$(PREFIX)
#
# Targets install what they miss from Debian's packages, as root or with sudo, and otherwise say what
# to install. The lab's kernel needs neither: its package is unpacked into build/.

GO     ?= go
PREFIX ?= /usr/local
BUILD  := $(abspath build)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/drover-lb/drover/internal/version.Version=$(VERSION)

# Without the generators of manual pages in urfave/cli, a twentieth of the time that drover takes to start.
TAGS    := urfave_cli_no_docs

# The lab unpacks and looks for its kernel here first.
export DROVER_UML := $(BUILD)/uml

# Debian's frozen package lists want no questions.
export DEBIAN_FRONTEND := noninteractive

LAB       := $(BUILD)/drover lab
IN_KERNEL := -exec '$(LAB) exec --memory 1536 --'
KERNEL    := -tags kernel $(IN_KERNEL)
# Packages with tests against the real kernel, which carry the build tag "kernel".
KERNEL_PKGS = $(shell grep -rl --include=*_test.go '^//go:build kernel' . | xargs -r -n1 dirname | sort -u)
# The tests in such files: the others of those packages do not need a kernel, and have run.
KERNEL_TESTS = $(shell grep -rl --include=*_test.go '^//go:build kernel' . | xargs -r sed -n 's/^func \(\(Test\|Example\)[A-Za-z0-9_]*\).*/\1/p' | sort -u | paste -sd'|')

.PHONY: all build demo test unit kernel-test lab-test bench faults soak lint vuln generate install man kernel clean

all: build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BUILD)/ ./cmd/...

# $(call need,COMMAND=PACKAGE...): Debian's packages of the commands that are not there.
define need
	@missing=; for p in $(1); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${p%%=*}" >/dev/null || missing="$$missing $${p##*=}"; done; \
	if [ -z "$$missing" ]; then exit 0; \
	elif [ "$$(id -u)" = 0 ]; then apt-get -qq update && apt-get -qq -y install --no-install-recommends $$missing >/dev/null; \
	elif sudo -n true 2>/dev/null; then sudo apt-get -qq update && sudo apt-get -qq -y install --no-install-recommends $$missing >/dev/null; \
	else echo "missing, and there is neither root nor sudo to install it: apt-get install$$missing" >&2; exit 1; fi
endef

kernel: build
	@$(LAB) kernel --dir $(DROVER_UML)

demo: kernel
	$(LAB) run --kernel uml --out $(BUILD)/lab examples/one-director
	@echo "The picture of it: build/lab/one-director/timeline.svg"

test: unit kernel-test lab-test

# The simulators take their steps, and clusters their minutes to heal, without the race detector.
unit:
	$(call need,gcc=gcc gcc=libc6-dev bash=bash zsh=zsh fish=fish)
	$(GO) test -race ./...
	$(GO) test ./cluster/election ./controller/adapt
	$(GO) test -run TestHeal ./cluster

kernel-test: kernel
	$(call need,ipvsadm=ipvsadm arping=iputils-arping ip=iproute2)
	@CGO_ENABLED=0 $(GO) test -count=1 -p 2 -timeout 12m -run '^($(KERNEL_TESTS))$$' $(KERNEL) $(KERNEL_PKGS)

lab-test: kernel
	$(call need,ipvsadm=ipvsadm arping=iputils-arping ip=iproute2)
	DROVER=$(BUILD)/drover $(GO) test -count=1 -parallel 2 -timeout 20m -tags lab ./examples

# Numbers of agents with which a cluster is measured.
AGENTS ?= 10 100 1000

bench: kernel
	$(call need,ipvsadm=ipvsadm)
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/bench ./bench
	$(BUILD)/bench --programs $(BUILD) --out $(BUILD)/bench.json
	DROVER_SCALE="$(AGENTS)" DROVER_SCALE_OUT=$(BUILD)/scale.json $(GO) test -tags bench -count=1 -run TestScale -timeout 30m ./cmd/drover-director

# Rounds of `make faults`, and the folders of labs that are compared with each other: those of directors' faults (faults),
# and of real servers'.
ROUNDS ?= 20
FAULTS ?= faults server-faults

faults: kernel
	$(call need,ipvsadm=ipvsadm keepalived=keepalived ip=iproute2)
	@failed=; for group in $(FAULTS); do \
	  $(LAB) faults --kernel uml --rounds $(ROUNDS) --out $(BUILD)/$$group examples/testdata/$$group/* || failed="$$failed $$group"; done; \
	if [ -n "$$failed" ]; then echo "not as expected:$$failed" >&2; exit 1; fi

soak: kernel
	$(call need,ipvsadm=ipvsadm arping=iputils-arping ip=iproute2)
	DROVER_SOAK_PACKETS=1000000 $(GO) test -count=1 -run Flood -timeout 10m ./cluster
	$(GO) test -run '^$$' -fuzz '^FuzzParse$$' -fuzztime 10m ./ipvs/ipvsadm/dropin
	$(GO) test -run '^$$' -fuzz '^FuzzRules$$' -fuzztime 10m ./ipvs/ipvsadm/dropin
	$(GO) test -run '^$$' -fuzz '^FuzzApply$$' -fuzztime 10m -fuzzminimizetime 5x ./controller/spec/edit
	$(GO) test -run '^$$' -fuzz '^FuzzArrange$$' -fuzztime 2m ./cmd/drover
	CGO_ENABLED=0 $(GO) test -count=1 -run 'GeneratedLines|SameAsIpvsadm' -timeout 25m $(KERNEL) ./ipvs/ipvsadm/dropin -args -lines 5000 -all
	CGO_ENABLED=0 $(GO) test -count=1 -run 'KilledAtRandomMoments|BadFileAtStart' -timeout 15m $(KERNEL) ./cmd/drover-director -args -kills 40 -one-in 1
	CGO_ENABLED=0 $(GO) test -count=1 -v -run 'ActiveKilledAmongChanges|ColdStart|TornState|FullDisk' -timeout 20m -tags 'kernel soak' $(IN_KERNEL) ./cmd/drover-director -args -active-kills 50
	$(LAB) run --kernel uml --out $(BUILD)/soak $(wildcard examples/testdata/soak/*)
	for i in 1 2 3 4 5 6 7 8 9 10; do DROVER=$(BUILD)/drover $(GO) test -count=1 -parallel 2 -timeout 20m -tags lab ./examples || exit 1; done

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt: the files above are not formatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags kernel,lab,soak ./...
	$(GO) vet -tags bench ./cmd/drover-director
	$(GO) tool staticcheck ./...
	$(GO) tool staticcheck -tags kernel,lab,soak ./...

vuln:
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./...

generate:
	$(GO) generate ./...

# For the machine that builds, whichever the programs are for.
man:
	GOOS= GOARCH= CGO_ENABLED=0 $(GO) run -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' ./cmd/drover man $(BUILD)/man
	for d in drover-director drover-realserver; do \
	  GOOS= GOARCH= CGO_ENABLED=0 $(GO) run -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' ./cmd/$$d --man > $(BUILD)/man/$$d.8 || exit 1; done

install: build man
	install -d $(DESTDIR)/etc/drover
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/share/doc/drover
	install -m 755 $(BUILD)/drover $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(BUILD)/drover-director $(BUILD)/drover-realserver $(BUILD)/drover-ipvsadm $(DESTDIR)$(PREFIX)/sbin/
	for unit in packaging/*.service; do \
	  sed 's|/usr/sbin/|$(PREFIX)/sbin/|g; s|file:/usr/share/|file:$(PREFIX)/share/|' "$$unit" > $(DESTDIR)$(PREFIX)/lib/systemd/system/"$${unit##*/}"; done
	install -m 644 packaging/*.yaml README.md CHANGELOG.md docs/*.md $(DESTDIR)$(PREFIX)/share/doc/drover/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 644 $(BUILD)/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 $(BUILD)/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -m 644 cmd/drover/completion/drover.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/drover
	install -m 644 cmd/drover/completion/drover.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_drover
	install -m 644 cmd/drover/completion/drover.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drover.fish

clean:
	rm -rf $(BUILD)
