//! Runs the inputs of every fuzz target's corpus through it, and random ones besides.
//!
//! The targets assert what must hold; an input that a fuzzer found is kept in `fuzz/corpus/<target>/`.

#![allow(unreachable_pub, reason = "the targets are modules of the fuzz crate as well")]

use std::path::Path;

use proptest::prelude::*;

#[path = "../fuzz/targets/grpc_timeout.rs"]
mod grpc_timeout;
#[path = "../fuzz/targets/replay.rs"]
mod replay;

fn run_corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut inputs: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        let data = std::fs::read(&input).expect("an input can be read");
        if std::panic::catch_unwind(|| run(&data)).is_err() {
            panic!("{target} fails on {}", input.display());
        }
    }
}

#[test]
fn grpc_timeout_corpus() {
    run_corpus("grpc_timeout", grpc_timeout::run);
}

#[test]
fn replay_corpus() {
    run_corpus("replay", replay::run);
}

proptest! {
    #[test]
    fn grpc_timeout_at_random(data in prop::collection::vec(any::<u8>(), 0..16)) {
        grpc_timeout::run(&data);
    }

    #[test]
    fn replay_at_random(data in prop::collection::vec(any::<u8>(), 0..64)) {
        replay::run(&data);
    }
}
