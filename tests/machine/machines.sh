# shellcheck shell=bash
# The machines of `make machine`: name, architecture, Debian suite of its programs, Debian suite of its kernel, the kernel's package
# without the architecture. The cloud kernel is the same with fewer drivers: it has no PPP.
machines='
debian12      amd64 bookworm bookworm linux-image-cloud
debian12-k13  amd64 bookworm trixie   linux-image-cloud
debian13      amd64 trixie   trixie   linux-image
arm64         arm64 bookworm bookworm linux-image-cloud
'

# machine_field NAME COLUMN: a column of the table above, or nothing.
machine_field() { awk -v name="$1" -v column="$2" '$1 == name { print $column }' <<<"$machines"; }

machine_names() { awk 'NF { print $1 }' <<<"$machines"; }
