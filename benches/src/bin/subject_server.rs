//! Servers under test, started by the benchmarks: see [`benches::subject`].

fn main() -> benches::Result<()> {
    benches::subject::run()
}
