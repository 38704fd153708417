# Causeway's two ends as images, for amd64 and arm64:
#
#   docker build --target gateway -t causeway/gateway .
#   docker build --target forwarder -t causeway/forwarder .
#   docker buildx build --platform linux/amd64,linux/arm64 --target forwarder .
#
# Nothing is emulated: every step runs on the building machine, for the other architecture by cross-compiling and by
# unpacking its packages, and the last stages only copy. How to run the images: docs/OPERATIONS.md.
#
#   --build-arg BINARIES=packages   take the programs, and the notices of what they are made of, from the Debian packages in
#                                   target/packages (`make packages`), in place of compiling
#   --build-arg RUST_IMAGE, DEBIAN_IMAGE   other images to build on; both are Debian 12
ARG RUST_IMAGE=rust:1.95-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim
ARG BINARIES=source

FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS source
ARG BUILDARCH
ARG TARGETARCH
WORKDIR /src
RUN set -eu; \
    [ "$TARGETARCH" != "$BUILDARCH" ] || exit 0; \
    case "$TARGETARCH" in \
      amd64) triple=x86_64-unknown-linux-gnu; cross="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
      arm64) triple=aarch64-unknown-linux-gnu; cross="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
    esac; \
    [ -d "$(rustc --print sysroot)/lib/rustlib/$triple" ] || rustup target add "$triple"; \
    apt-get update; \
    apt-get install -y --no-install-recommends $cross; \
    rm -rf /var/lib/apt/lists/*
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target set -eu; \
    case "$TARGETARCH" in \
      amd64) triple=x86_64-unknown-linux-gnu gcc=x86_64-linux-gnu-gcc ;; \
      arm64) triple=aarch64-unknown-linux-gnu gcc=aarch64-linux-gnu-gcc ;; \
      *) echo "no image for $TARGETARCH" >&2; exit 1 ;; \
    esac; \
    if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
      variable=$(echo "$triple" | tr a-z- A-Z_); \
      export "CARGO_TARGET_${variable}_LINKER=$gcc" "CC_$(echo "$triple" | tr - _)=$gcc"; \
    fi; \
    CARGO_PROFILE_RELEASE_STRIP=symbols cargo build --release --locked --target "$triple" -p gateway -p forwarder -p causeway --bins; \
    mkdir -p /out/gateway/usr/bin /out/forwarder/usr/bin; \
    for name in gateway gatewayctl causeway; do cp "target/$triple/release/$name" /out/gateway/usr/bin/; done; \
    for name in forwarder causeway; do cp "target/$triple/release/$name" /out/forwarder/usr/bin/; done

FROM --platform=$BUILDPLATFORM ${DEBIAN_IMAGE} AS packages
ARG TARGETARCH
COPY target/packages/*_${TARGETARCH}.deb /debs/
RUN set -eu; \
    take() { \
      end=$1; shift; \
      mkdir -p "/trees/$end" "/out/$end/usr/bin"; \
      for package in causeway "causeway-$end"; do \
        dpkg -x "/debs/${package}"_*.deb "/trees/$end"; \
        install -D -m 0644 -t "/out/$end/usr/share/doc/$package" \
          "/trees/$end/usr/share/doc/$package/copyright" "/trees/$end/usr/share/doc/$package/NOTICES.gz"; \
      done; \
      for name; do cp "/trees/$end/usr/bin/$name" "/out/$end/usr/bin/"; done; \
    }; \
    take gateway gateway gatewayctl causeway; \
    take forwarder forwarder causeway

FROM ${BINARIES} AS binaries

# What the binaries need in addition: the C library and, for the gateway, nft with its libraries.
FROM --platform=$BUILDPLATFORM ${DEBIAN_IMAGE} AS runtime
ARG BUILDARCH
ARG TARGETARCH
WORKDIR /debs
RUN set -eu; \
    case "$TARGETARCH" in \
      amd64) lib=x86_64-linux-gnu loader=lib64/ld-linux-x86-64.so.2 ;; \
      arm64) lib=aarch64-linux-gnu loader=lib/ld-linux-aarch64.so.1 ;; \
      *) echo "no image for $TARGETARCH" >&2; exit 1 ;; \
    esac; \
    [ "$TARGETARCH" = "$BUILDARCH" ] || dpkg --add-architecture "$TARGETARCH"; \
    apt-get update; \
    unpack() { \
      tree=$1; shift; \
      mkdir -p "$tree"; \
      for name; do set -- "$@" "$name:$TARGETARCH"; shift; done; \
      apt-get download "$@"; \
      for package in *.deb; do dpkg -x "$package" "$tree"; done; \
      rm ./*.deb; \
    }; \
    take() { \
      tree=$1 root=$2; shift 2; \
      mkdir -p "$root/usr/lib/$lib"; \
      for name; do \
        found=$(find "$tree/lib" "$tree/usr/lib" -path "*$lib/$name" | head -n 1); \
        cp -L "$found" "$root/usr/lib/$lib/$name"; \
      done; \
      for notice in "$tree"/usr/share/doc/*/copyright; do \
        package=$(basename "$(dirname "$notice")"); \
        mkdir -p "$root/usr/share/doc/$package"; \
        cp -L "$notice" "$root/usr/share/doc/$package/"; \
      done; \
    }; \
    unpack /trees/c libc6 libgcc-s1 gcc-12-base; \
    unpack /trees/nft nftables libnftables1 libnftnl11 libmnl0 libjansson4 libgmp10 libedit2 libtinfo6 libbsd0 libmd0 libxtables12; \
    for root in /gateway /forwarder; do \
      take /trees/c "$root" libc.so.6 libm.so.6 libgcc_s.so.1 libresolv.so.2 libpthread.so.0 libdl.so.2 librt.so.1; \
      mkdir -p "$root/$(dirname "$loader")" "$root/etc/causeway" "$root/run" "$root/var" "$root/tmp"; \
      cp -L "/trees/c/$loader" "$root/$loader"; \
      ln -s ../run "$root/var/run"; \
      printf 'root:x:0:0:root:/:/sbin/nologin\ncauseway:x:65532:65532:causeway:/:/sbin/nologin\n' >"$root/etc/passwd"; \
      printf 'root:x:0:\ncauseway:x:65532:\n' >"$root/etc/group"; \
      printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"; \
      chmod 1777 "$root/tmp"; \
    done; \
    mkdir -p /gateway/run/causeway /forwarder/run/causeway-forwarder; \
    install -d -m 0700 /gateway/var/lib/causeway /forwarder/var/lib/causeway-forwarder; \
    install -d -m 0750 /gateway/var/lib/causeway-root; \
    chown -R 65532:65532 /forwarder/run/causeway-forwarder /forwarder/var/lib/causeway-forwarder; \
    take /trees/nft /gateway libnftables.so.1 libnftnl.so.11 libmnl.so.0 libjansson.so.4 libgmp.so.10 libedit.so.2 \
      libtinfo.so.6 libbsd.so.0 libmd.so.0 libxtables.so.12; \
    mkdir -p /gateway/usr/sbin; \
    cp /trees/nft/usr/sbin/nft /gateway/usr/sbin/; \
    rm -rf /trees

# The edge: --cap-drop ALL --cap-add NET_ADMIN --device /dev/net/tun --read-only, and the edge's own network.
FROM scratch AS gateway
COPY --from=runtime /gateway/ /
COPY --from=binaries /out/gateway/ /
ENV PATH=/usr/bin:/usr/sbin
# The daemon's state, and what gatewayctl keeps for confirm and rollback.
VOLUME ["/var/lib/causeway", "/var/lib/causeway-root"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["gatewayctl", "status"]
ENTRYPOINT ["gateway"]
CMD ["--config", "/etc/causeway/gateway.toml"]

# The origin's peer: --cap-drop ALL --read-only; it may run as any user.
FROM scratch AS forwarder
COPY --from=runtime /forwarder/ /
COPY --from=binaries /out/forwarder/ /
ENV PATH=/usr/bin STATE_DIRECTORY=/var/lib/causeway-forwarder RUNTIME_DIRECTORY=/run/causeway-forwarder
USER 65532:65532
VOLUME /var/lib/causeway-forwarder
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["forwarder", "health"]
ENTRYPOINT ["forwarder"]
CMD ["--config", "/etc/causeway/forwarder.toml"]
