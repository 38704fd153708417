//! The program `bench-growth`. Where there is no glibc, whose allocator counts, it only reports that
//! it does not run there.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[path = "../src/bin/bench-growth/main.rs"]
mod glibc;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() -> anyhow::Result<()> {
    glibc::main()
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() -> std::process::ExitCode {
    eprintln!("bench-growth runs on Linux with glibc only");
    std::process::ExitCode::FAILURE
}
