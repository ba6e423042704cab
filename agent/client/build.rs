//! Links the small static build of the client tightly: without what only unwinding needs.
//!
//! Applies to the profile `client` (`opt-level = "z"`) on musl alone; every other build is untouched.

fn main() {
    println!("cargo::rerun-if-changed=strip.ld");
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|set| set == value);
    if is("OPT_LEVEL", "z") && is("CARGO_CFG_TARGET_ENV", "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        // Its own addresses as a bitmap, which musl reads since 1.2.4: 40 kB.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        println!(
            "cargo::rustc-link-arg-bins=-Wl,-T,{}/strip.ld",
            env!("CARGO_MANIFEST_DIR")
        );
    }
}
