#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| replay::run("link_session", input));
