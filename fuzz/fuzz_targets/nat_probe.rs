#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| halloo_fuzz_targets::nat_probe(data));
