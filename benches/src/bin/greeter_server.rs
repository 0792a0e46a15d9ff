//! The server of the benchmarks, started by them: see [`benches::server`].

fn main() -> benches::Result<()> {
    benches::server::run()
}
