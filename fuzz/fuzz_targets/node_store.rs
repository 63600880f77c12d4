#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| halloo_fuzz_targets::node_store(data));
