#!/bin/sh
# A backup's life in a few minutes: three homes and a database dump go into an encrypted repository on two nights, one
# home comes back, a running MongoDB becomes what it was at a second in between, the rest is pruned. Every command is shown
# as one would type it.
#
#   make demo                        or   docs/demo.sh
#   DEMO_DIR=/some/new/folder make demo   to choose where it happens (the folder is kept)
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
started=$(date +%s)

say() { printf '\n# %s\n' "$*"; }

# run shows a command and the first lines of what it prints; the demonstration ends where a command fails.
run() {
	printf '$ %s\n' "$*"
	status=0
	"$@" >"$work/output" 2>&1 || status=$?
	awk 'NR <= 20 { print "  " $0 } END { if (NR > 20) print "  ... and " NR - 20 " more lines" }' "$work/output"
	if [ "$status" -ne "${expected:-0}" ]; then
		echo "demo: this ended with status $status, not ${expected:-0}; everything is left in $work" >&2
		exit 1
	fi
}

assign() {
	printf '$ export %s\n' "$1"
	export "${1?}"
}

bytes_in() { find "$1" -type f -exec cat {} + | wc -c | tr -d ' '; }

say "Build wtsnap, and the program that makes corpora and compares trees"
cd "$root"
printf '$ make build bench-build\n'
make -s build bench-build
CGO_ENABLED=0 go build -buildvcs=false -trimpath -o bin/mongotestd ./mongo/internal/mongotest/mongotestd
PATH=$root/bin:$PATH

if [ -n "${DEMO_DIR:-}" ]; then
	work=$DEMO_DIR
	mkdir -p "$work"
	if [ -n "$(ls -A "$work")" ]; then
		echo "demo: $work is not empty" >&2
		exit 1
	fi
else
	work=$(mktemp -d "${TMPDIR:-/tmp}/wtsnap-demo.XXXXXX")
fi
cd "$work"
say "Everything happens in $work"

say "Three homes from what this machine has, and a small database dump as mongodump leaves it"
mkdir -p homes/alice/code homes/bob/code homes/carol
goroot=$(go env GOROOT)
cp -R "$goroot/src/net" "$goroot/src/image" homes/alice/code
cp -R "$goroot/src/crypto" "$goroot/src/encoding" homes/bob/code
for folder in zoneinfo misc doc/git doc/bash perl5/Git common-licenses; do
	if [ -d "/usr/share/$folder" ]; then
		cp -R "/usr/share/$folder" homes/carol
	fi
done
cp -R "$goroot/src/go" homes/carol
chmod -R u+w homes
echo "The first line of my notes." >homes/alice/notes.txt
ln -s code/net homes/alice/network
ln homes/alice/notes.txt homes/alice/notes-linked.txt
dd if=/dev/urandom of=homes/bob/scratch.bin bs=1000000 count=8 2>/dev/null
touch "homes/bob/$(printf 'a name of\ntwo lines')"
chmod 600 homes/bob/code/crypto/*.go
wtsnap-bench corpus -kind dump -size tiny mongo
source_bytes=$(($(bytes_in homes) + $(bytes_in mongo)))
run ls homes mongo/girder

say "A repository in a folder; any rclone remote would do as well (box:backups)"
od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >password
chmod 600 password
assign "WTSNAP_REPO=$work/repository"
assign "WTSNAP_PASSWORD_FILE=$work/password"
assign "WTSNAP_INSTANCE=demo"
assign "WTSNAP_CACHE_DIR=$work/cache"
run wtsnap init

say "The first night"
run wtsnap backup homes=homes mongo=mongo
first_bytes=$(bytes_in repository)
cp -Rp homes/alice alice-of-the-first-night

say "The next day: a line added, a file changed in the middle, renamed, removed; documents updated, inserted, deleted"
echo "The second line of my notes." >>homes/alice/notes.txt
sed 's/return nil/return nil \/\/ looked at again/' homes/bob/code/crypto/crypto.go >homes/bob/changed
mv homes/bob/changed homes/bob/code/crypto/crypto.go
mv homes/alice/code/image homes/alice/pictures
rm -r homes/alice/code/net/http/pprof
rm homes/bob/scratch.bin
chmod 700 homes/carol
rm -r mongo
wtsnap-bench corpus -kind dump -size tiny -nights 1 mongo

say "The second night"
run wtsnap backup homes=homes mongo=mongo
second_bytes=$(bytes_in repository)

say "What is there"
run wtsnap snapshots
run wtsnap ls latest:homes/alice
run wtsnap find notes.txt
run wtsnap diff latest~1 latest

say "One home comes back, directly in the folder named, and equals its source"
run wtsnap restore latest:homes/alice --to restored-alice
run wtsnap-bench compare homes/alice restored-alice

say "So does the home as it was the night before"
run wtsnap restore latest~1:homes/alice --to earlier-alice
run cmp alice-of-the-first-night/notes.txt earlier-alice/notes.txt
run ls earlier-alice/code/image

say "The dump comes back for mongorestore, byte for byte"
run wtsnap restore latest:mongo --to restored-mongo
run wtsnap-bench compare mongo restored-mongo

say "A wrong password opens nothing, and says so with an exit code of its own"
echo wrong >wrong-password
expected=12
run wtsnap -p wrong-password snapshots
expected=0

say "Every byte in the repository is read and verified"
run wtsnap check --read-data

say "Only the newest snapshot is kept, and the space of the others is freed at once, since nobody else is at work here"
run wtsnap forget --keep-last 1 --prune --grace 0
run wtsnap snapshots
run wtsnap check --read-data
run wtsnap restore latest:homes --to restored-homes
run wtsnap-bench compare homes restored-homes

last_bytes=$(bytes_in repository)

say "A running MongoDB (here the server of wtsnap's tests, with the dump of the first night's day in it) is a source as well"
wtsnap-bench corpus -kind dump -size tiny live
mkfifo stop
mongotestd -clock -load live <stop >address &
exec 3>stop # the server ends when this is closed
while [ ! -s address ]; do :; done
uri=$(cat address)
run wtsnap backup "db=$uri"
run wtsnap mongo oplog --once "$uri"

say "What happens between two backups is in the oplog: here the changes of the second day"
sleep 1
before=$(date -u +%Y-%m-%dT%H:%M:%SZ)
sleep 1
run wtsnap restore latest~1:mongo --to "$uri" --overwrite
run wtsnap mongo oplog --once "$uri"

say "What was another one a second before that, and then the database as of that second"
expected=1
run wtsnap mongo verify --at "$before" latest:db "$uri"
expected=0
run wtsnap restore --at "$before" latest:db --to "$uri" --drop
run wtsnap mongo verify --at "$before" latest:db "$uri"
# shellcheck disable=SC2016  # the dollar is the query's
run wtsnap restore latest:db/girder/user.bson --filter '{"login": {"$regex": "^a"}}' --to some-users
exec 3>&-
cat <<END

# Done in $(($(date +%s) - started)) s, the build included

  backed up                      $source_bytes bytes
  stored on the first night      $first_bytes bytes
  added by the second night      $((second_bytes - first_bytes)) bytes
  stored after forget and prune  $last_bytes bytes
  restored                       one home of two nights, the dump, all homes, a MongoDB of a second; equal to their sources
  kept for you to look at        $work
END
