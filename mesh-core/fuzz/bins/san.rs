#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/reader.rs"]
mod reader;
#[path = "../targets/san.rs"]
mod target;

fuzz_target!(|data: &[u8]| target::run(data));
