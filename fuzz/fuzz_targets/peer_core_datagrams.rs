#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| halloo_fuzz_targets::peer_core_datagrams(data));
