#!/bin/sh
# Runs after Immich is healthy: says where the first administrator is made. Replace it by what your site needs.
set -eu
echo "immich: open https://photos.$(sed -n 's/^DOMAIN=//p' ../.env.user) and make the first account" >&2
