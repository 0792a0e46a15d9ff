//! What other processes cost. Linux only: it reads `/proc`.

use std::fs;
use std::time::Duration;

use crate::Result;

/// CPU time that the threads of process `id` have spent, user and system, without those that have ended.
///
/// # Errors
/// If there is no such process, or the kernel does not count (`CONFIG_SCHED_INFO`).
pub fn cpu(id: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        // One that ends while it is looked at.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let spent = text.split_whitespace().next().ok_or("an empty schedstat")?;
        nanos += spent.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Bytes of memory that process `id` has resident.
///
/// # Errors
/// If there is no such process.
pub fn resident(id: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("no Rss in smaps_rollup")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_spends_time_and_memory() {
        let id = std::process::id();
        let before = cpu(id).unwrap();
        let sum = (0..20_000_000_u64).fold(0, |sum, n| std::hint::black_box(n ^ sum));
        assert!(cpu(id).unwrap() > before, "{sum}");
        let before = resident(id).unwrap();
        let memory = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(resident(id).unwrap() > before + (32 << 20), "{}", memory.len());
    }
}
