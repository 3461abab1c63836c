# wtsnap. "make help" lists the targets. Needed: Go, git, make and a POSIX shell.

SIZE     ?= small
RUNS     ?= 3
NIGHTS   ?= 3
FUZZTIME ?= 1m
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# One set of build flags everywhere, so that tests, linters and programs share the compiled packages of hundreds of
# dependencies. The race detector needs cgo and compiles its own.
export CGO_ENABLED := 0
export GOFLAGS := $(filter-out -trimpath,$(shell go env GOFLAGS)) -trimpath

# What the tests with real MongoDB tools, and those with a real server, read.
MONGO = WTSNAP_MONGO_TOOLS='$(CURDIR)/build/mongo' WTSNAP_MONGO_URI='$(MONGO_URI)'

GO_SOURCES = $(shell git ls-files -co --exclude-standard '*.go')

.PHONY: help build bench-build test test-race test-slow fuzz model mutants cross bench demo lint fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

build: ## build bin/wtsnap
	go build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/wtsnap ./cmd/wtsnap

bench-build: ## build bin/wtsnap-bench (corpora, comparer, benchmark)
	go build -o bin/wtsnap-bench ./cmd/wtsnap-bench
	go build -o bin/thinline ./cmd/wtsnap-bench/thinline

test: build/mongo/built ## run the fast tests, and name the skipped ones; MONGO_URI=... uses a real server, too
	$(MONGO) go run ./.ci/testreport -timeout 10m ./... ./.ci/testreport ./.ci/mutants

test-race: build/mongo/built ## run the fast tests with the race detector (needs a C compiler)
	$(MONGO) CGO_ENABLED=1 go run ./.ci/testreport -race -timeout 30m ./...

test-slow: bin/minio build/mongo/built fuzz model cross ## run the tests with larger budgets, the fuzz targets, and other systems' builds
	$(MONGO) WTSNAP_SLOW=1 WTSNAP_MINIO='$(CURDIR)/bin/minio' go run ./.ci/testreport -tags slow -count 1 -timeout 4h ./...

fuzz: ## run each fuzz target for FUZZTIME (1m)
	sh .ci/fuzz $(FUZZTIME)

model: ## check the model of the protocol: docs/model (hours, and 6 GB of memory)
	@if command -v spin; then sh docs/model/check all && sh docs/model/check broken; else echo "spin is not here: the model is not checked"; fi

mutants: ## leave one step of the protocol out at a time, and see that a test notices (half an hour)
	go run ./.ci/mutants

cross: ## compile for the other systems
	GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/wtsnap
	GOOS=freebsd GOARCH=amd64 go build -o /dev/null ./cmd/wtsnap
	GOOS=linux GOARCH=arm64 go build -o /dev/null ./cmd/wtsnap

bench: build bench-build build/mongo/built ## measure beside restic, borg and mongodump: SIZE=small or full, RUNS=3, NIGHTS=3
	bin/wtsnap-bench run -size $(SIZE) -runs $(RUNS) -nights $(NIGHTS) -json build/bench-$(SIZE).json
	bin/wtsnap-bench thin -nights $(NIGHTS)
	bin/wtsnap-bench mongo -size $(SIZE) -runs $(RUNS) -nights $(NIGHTS) -json build/bench-mongo-$(SIZE).json

demo: ## build, then show a backup's life: two nights, restore, check, prune, a MongoDB
	sh docs/demo.sh

lint: build/staticcheck ## check formatting, go vet, staticcheck and the shell scripts
	@unformatted=$$(gofmt -l $(GO_SOURCES)) && test -z "$$unformatted" || { echo "run make fmt for:" $$unformatted; exit 1; }
	go vet ./... ./.ci/testreport ./.ci/mutants
	go -C .ci/mongo vet ./ferretdb
	build/staticcheck ./... ./.ci/testreport ./.ci/mutants
	@if command -v shellcheck; then shellcheck .ci/run .ci/fuzz docs/demo.sh docs/model/check; else echo "shellcheck is not here: skipped"; fi

fmt: ## format the Go files
	gofmt -w $(GO_SOURCES)

clean: ## remove what was built
	rm -rf bin build

build/staticcheck: .ci/tools/go.sum
	go -C .ci/tools build -o '$(CURDIR)/build/staticcheck' honnef.co/go/tools/cmd/staticcheck

# FerretDB, mongodump, mongorestore and bsondump for the tests, and the server in memory as a program.
build/mongo/built: .ci/mongo/go.sum .ci/mongo/ferretdb/main.go $(wildcard mongo/internal/mongotest/*.go mongo/internal/mongotest/*/*.go)
	go build -o build/mongo/mongotestd ./mongo/internal/mongotest/mongotestd
	go -C .ci/mongo build -tags ferretdb_no_postgresql -o '$(CURDIR)/build/mongo/ferretdb' ./ferretdb
	for tool in mongodump mongorestore bsondump; do \
		go -C .ci/mongo build -o "$(CURDIR)/build/mongo/$$tool" "github.com/mongodb/mongo-tools/$$tool/main" || exit 1; \
	done
	touch $@

# A real S3 server for the slow tests.
bin/minio: .ci/minio/go.sum
	go -C .ci/minio build -o '$(CURDIR)/bin/minio' github.com/minio/minio
