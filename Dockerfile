FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /src
ENV CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols
# The dependencies first, in a layer of their own: they change seldom. Cargo wants every target it is told of to be there.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it tests/bench \
 && echo 'fn main() {}' | tee src/main.rs src/build.rs tests/it/main.rs tests/bench/abuse.rs tests/bench/core.rs tests/bench/groups.rs tests/bench/throughput.rs >/dev/null \
 && touch src/lib.rs \
 && cargo build --release --locked --no-default-features
COPY src src
# For --version; there is no git here.
ARG OBSERVER_COMMIT=
# Without the embedded broker of `demo`.
RUN touch src/main.rs src/lib.rs src/build.rs && cargo build --release --locked --no-default-features && mkdir /state

FROM docker.io/library/debian:bookworm-slim
# The certificates of the build image are the ones of Debian's package: no need to install it a second time.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/chat21-observer /usr/local/bin/chat21-observer
# Nobody: needs nothing of the image, and writes to this directory alone (with a volume there it runs with --read-only).
COPY --from=build --chown=65532:65532 /state /var/lib/chat21-observer
ENV OBSERVER_STATE_DIR=/var/lib/chat21-observer
VOLUME /var/lib/chat21-observer
USER 65532:65532
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["chat21-observer", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["chat21-observer"]
CMD ["run"]
