#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets/oracle.rs"]
mod oracle;
#[path = "../targets/reader.rs"]
mod reader;
#[path = "../targets/header_path_matching.rs"]
mod target;

fuzz_target!(|data: &[u8]| target::run(data));
