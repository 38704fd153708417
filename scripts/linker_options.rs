//! Build script of both daemons: how their programs are linked.

use std::env::var;

#[expect(clippy::print_stdout, reason = "cargo reads what a build script prints")]
fn main() {
    println!("cargo:rerun-if-changed=../scripts/linker_options.rs");
    let target =
        ["OS", "ENV", "ARCH"].map(|part| var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default());
    // Packed relocations take a thirtieth of the space, which is resident memory saved. glibc reads them
    // from 2.36 on; the linkers in use write them for x86-64.
    if target == ["linux", "gnu", "x86_64"] {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
