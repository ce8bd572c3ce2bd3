# syntax=docker/dockerfile:1
# The server in a small image, as an unprivileged user. Build it in the repository's folder: docker build -t realtime .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# The cryptographic library is C, and compiled here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
COPY . .
# The caches of cargo live beside the layers, so that a change of code builds only what depends on it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package realtime-server \
    && strip -o /realtime target/release/realtime

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="Realtime" \
      org.opencontainers.image.description="Turns a PostgreSQL into a realtime back end, wire-compatible with Supabase Realtime" \
      org.opencontainers.image.licenses="Apache-2.0"
# curl is what health checks written for the original call, ca-certificates what databases are verified against.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin realtime
COPY --from=build /realtime /usr/local/bin/realtime
USER 10001:10001
ENV PORT=4000 LOG_FORMAT=json
EXPOSE 4000
# Sockets are told to come back and are closed: SIGTERM, the default, is what the server waits for.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["sh", "-c", "curl --silent --fail --head --output /dev/null \"http://localhost:$PORT/healthcheck\""]
ENTRYPOINT ["/usr/local/bin/realtime"]
