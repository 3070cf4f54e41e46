# The image chat21/observer:
#
#   docker build -t chat21/observer .
#   docker run --rm -p 1883:1883 -p 8080:8080 chat21/observer demo
#
# `chat21-observer guide install` says how to run it beside a broker.

# The version is the rust-version of Cargo.toml; .ci/run compares them.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
# The dependencies first, in a layer of their own: they change seldom. Cargo wants a file for every
# target that Cargo.toml names.
COPY Cargo.toml Cargo.lock ./
RUN for file in src/build.rs $(sed -n 's/^path = "\(.*\)"$/\1/p' Cargo.toml); do \
      mkdir -p "$(dirname "$file")" && echo 'fn main() {}' >"$file"; \
    done \
 && touch src/lib.rs \
 && cargo build --release --locked
COPY src src
# For --version; there is no git here.
ARG OBSERVER_COMMIT=
RUN touch src/main.rs src/lib.rs src/build.rs && cargo build --release --locked && mkdir /state

FROM docker.io/library/debian:bookworm-slim
# The build image has the certificates of Debian's package: no need to install it again.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/chat21-observer /usr/local/bin/chat21-observer
# It runs as nobody, needs nothing of the image and writes to this directory alone: with a volume
# there it runs with --read-only.
COPY --from=build --chown=65532:65532 /state /var/lib/chat21-observer
ENV OBSERVER_STATE_DIR=/var/lib/chat21-observer
# Published ports lead to the container's own address, not to its loopback.
ENV OBSERVER_DEMO_LISTEN=0.0.0.0
VOLUME /var/lib/chat21-observer
USER 65532:65532
# The demo answers where its page is.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
  CMD if grep -qz '^demo$' /proc/1/cmdline; then set -- --http-listen 8080; fi; \
    exec chat21-observer health "$@"
STOPSIGNAL SIGTERM
ENTRYPOINT ["chat21-observer"]
CMD ["run"]
