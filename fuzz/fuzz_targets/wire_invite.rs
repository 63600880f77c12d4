#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| halloo_fuzz_targets::wire_invite(data));
