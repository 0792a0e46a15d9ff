//! RL-16: runs the inputs of every fuzz target's corpus through it, and random ones besides.
//!
//! The targets assert what must hold; an input that a fuzzer found is kept in `fuzz/corpus/<target>/`.

#![allow(unreachable_pub, reason = "the targets are modules of the fuzz crate as well")]

use std::path::Path;

use proptest::prelude::*;

#[path = "../fuzz/targets/bundles.rs"]
mod bundles;
#[path = "../fuzz/targets/config.rs"]
mod config;
#[path = "../fuzz/targets/grpc_timeout.rs"]
mod grpc_timeout;
#[path = "../fuzz/targets/header_path_matching.rs"]
mod header_path_matching;
#[path = "../fuzz/targets/inbound.rs"]
mod inbound;
#[path = "../fuzz/targets/oracle.rs"]
mod oracle;
#[path = "../fuzz/targets/orca.rs"]
mod orca;
#[path = "../fuzz/targets/reader.rs"]
mod reader;
#[path = "../fuzz/targets/replay.rs"]
mod replay;
#[path = "../fuzz/targets/route_table.rs"]
mod route_table;
#[path = "../fuzz/targets/san.rs"]
mod san;
#[path = "../fuzz/targets/spiffe_id.rs"]
mod spiffe_id;
#[path = "../fuzz/targets/xfcc.rs"]
mod xfcc;

/// Runs a corpus of at least `least` inputs.
fn run_corpus(target: &str, least: usize, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut inputs: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    inputs.sort();
    assert!(inputs.len() >= least, "{} is not complete", folder.display());
    for input in inputs {
        let data = std::fs::read(&input).expect("an input can be read");
        if std::panic::catch_unwind(|| run(&data)).is_err() {
            panic!("{target} fails on {}", input.display());
        }
    }
}

#[test]
fn bundles_corpus() {
    run_corpus("bundles", 5, bundles::run);
}

#[test]
fn config_corpus() {
    run_corpus("config", 10, config::run);
}

#[test]
fn grpc_timeout_corpus() {
    run_corpus("grpc_timeout", 1, grpc_timeout::run);
}

#[test]
fn header_path_matching_corpus() {
    run_corpus("header_path_matching", 1, header_path_matching::run);
}

/// MT-14, CL-13
#[test]
fn inbound_corpus() {
    run_corpus("inbound", 10, inbound::run);
}

#[test]
fn orca_corpus() {
    run_corpus("orca", 10, orca::run);
}

#[test]
fn replay_corpus() {
    run_corpus("replay", 1, replay::run);
}

#[test]
fn route_table_corpus() {
    run_corpus("route_table", 1, route_table::run);
}

/// MT-06, MT-07, MT-08
#[test]
fn san_corpus() {
    run_corpus("san", 20, san::run);
}

#[test]
fn spiffe_id_corpus() {
    run_corpus("spiffe_id", 20, spiffe_id::run);
}

/// AZ-05
#[test]
fn xfcc_corpus() {
    run_corpus("xfcc", 5, xfcc::run);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// RT-13
    #[test]
    fn rt_13_a_route_table_finds_what_a_test_of_each_route_finds(data in prop::collection::vec(any::<u8>(), 0..256)) {
        route_table::run(&data);
    }

    /// RT-01, RT-03, RT-04, RT-05, RT-09
    #[test]
    fn any_text_is_matched_by_the_plain_rules(data in prop::collection::vec(any::<u8>(), 0..64)) {
        header_path_matching::run(&data);
    }

    /// MT-06, MT-07, MT-08
    #[test]
    fn names_are_compared_by_the_plain_rules(data in prop::collection::vec(any::<u8>(), 0..48)) {
        san::run(&data);
    }

    /// AZ-05: what a certificate says cannot pass for more than its names. Half of the characters are those that matter.
    #[test]
    fn az_05_what_is_written_of_a_certificate_is_read_as_that(
        data in prop::collection::vec(prop_oneof![prop::sample::select(&b"\",;=\\\n uri"[..]), any::<u8>()], 0..96),
    ) {
        xfcc::run(String::from_utf8_lossy(&data).as_bytes());
    }

    /// MT-14, CL-13, RL-03: frames of every kind, whose lengths are mostly true.
    #[test]
    fn first_bytes_and_frames_say_the_same_wherever_they_are_cut(
        cut in any::<u8>(),
        most in 0..2_u8,
        frames in prop::collection::vec((0..12_u8, any::<u8>(), 0..6_u8, any::<bool>()), 0..24),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut data = vec![cut, most];
        for (kind, flags, length, repeats) in frames {
            let frame = [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &vec![0; usize::from(length)]].concat();
            data.extend(frame.repeat(if repeats { 12 } else { 1 }));
        }
        data.extend(rest);
        inbound::run(&data);
    }

    #[test]
    fn a_load_report_is_read_as_it_was_written(data in prop::collection::vec(any::<u8>(), 0..96)) {
        orca::run(&data);
    }
}

proptest! {
    #[test]
    fn bundles_at_random(data in prop::collection::vec(any::<u8>(), 0..96)) {
        bundles::run(&data);
    }

    #[test]
    fn grpc_timeout_at_random(data in prop::collection::vec(any::<u8>(), 0..16)) {
        grpc_timeout::run(&data);
    }

    #[test]
    fn spiffe_ids_at_random(text in r"spiffe://[a-bA.:@/%]{0,9}(/[a-z.%?#]{0,4}){0,3}") {
        spiffe_id::run(text.as_bytes());
    }

    #[test]
    fn replay_at_random(data in prop::collection::vec(any::<u8>(), 0..64)) {
        replay::run(&data);
    }
}
