#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| blackstart_fuzz::request(text));
