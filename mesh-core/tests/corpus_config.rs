//! Replays the corpus of the fuzz target `config`.

#[path = "../fuzz/targets/config.rs"]
#[allow(unreachable_pub, reason = "a fuzz target is compiled into a crate of its own")]
mod config;

#[test]
fn corpus_holds() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/config");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus in {directory} is not complete");
    for file in files {
        println!("{}", file.display());
        config::run(&std::fs::read(&file).unwrap());
    }
}
