# Both programs, static, in an image that holds nothing else. Any image with Rust 1.95 and a C compiler
# can build them: docker build --build-arg BUILDER=... .
ARG BUILDER=rust:1.95-bookworm

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# The host's own target, named, so that the flags are for the programs and not for build scripts.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && export RUSTFLAGS="-C target-feature=+crt-static" \
    && cargo build --locked --release -p agent --target "$target" \
    && cargo build --locked --profile client -p client --target "$target" \
    && mkdir /out \
    && cp "target/$target/release/quaymasterd" "target/$target/client/quaymaster" /out/

FROM scratch
# Roots for Vault, GitLab and the cluster where they have public certificates.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/ /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/quaymasterd"]
