//! h2load and wrk, which call a server as fast as it answers.

use std::time::Duration;

use super::{PATIENCE, Ran, run};

/// What a load came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Requests that were answered, with whatever status.
    pub answered: u64,
    /// Answers with a status of the class 2xx.
    pub succeeded: u64,
    /// Requests that got no answer: h2load counts each, wrk the errors of connections and timeouts.
    pub lost: u64,
    /// Answers a second.
    pub rate: f64,
}

/// Runs h2load, the program that `MESH_PEER_H2LOAD` names, against a URL: HTTP/2, by prior knowledge if it is not by TLS.
/// `arguments` say how much, as `["-n", "1000", "-c", "4", "-m", "10"]`; `--h1` is HTTP/1.1.
///
/// # Panics
/// If the variable is not set, h2load cannot be run, or takes longer than five minutes.
pub async fn h2load(url: &str, arguments: &[&str]) -> Load {
    let ran = run("MESH_PEER_H2LOAD", arguments.iter().chain([&url]), b"", 5 * PATIENCE).await;
    of_h2load(&ran.output).unwrap_or_else(|| panic!("h2load has not told what came of it: {}", ran.said()))
}

fn of_h2load(output: &str) -> Option<Load> {
    // `requests: 9 total, 9 started, 9 done, 8 succeeded, 1 failed, 0 errored, 0 timeout`
    let line = |start: &str| output.lines().find_map(|line| line.strip_prefix(start));
    let count = |line: &str, name: &str| {
        line.split(',').find_map(|part| part.trim().strip_suffix(name)?.trim().parse::<u64>().ok())
    };
    let codes = line("status codes:")?;
    let answered = ["2xx", "3xx", "4xx", "5xx"].map(|class| count(codes, class)).into_iter().sum::<Option<_>>()?;
    let requests = line("requests:")?;
    let total = count(requests, "total")?;
    let rate = line("finished in ")?.split(',').find_map(|part| part.trim().strip_suffix(" req/s"))?.parse().ok()?;
    Some(Load { answered, succeeded: count(codes, "2xx")?, lost: total.saturating_sub(answered), rate })
}

/// Runs wrk, the program that `MESH_PEER_WRK` names, against a URL for `duration`, in whole seconds: HTTP/1.1 over
/// `connections`.
///
/// # Panics
/// If the variable is not set, wrk cannot be run, or does not end.
pub async fn wrk(url: &str, connections: usize, duration: Duration) -> Load {
    let (connections, seconds) = (connections.to_string(), format!("{}s", duration.as_secs().max(1)));
    let arguments = ["-t", "1", "-c", &connections, "-d", &seconds, url];
    let ran: Ran = run("MESH_PEER_WRK", arguments, b"", duration + PATIENCE).await;
    of_wrk(&ran.output).unwrap_or_else(|| panic!("wrk has not told what came of it: {}", ran.said()))
}

fn of_wrk(output: &str) -> Option<Load> {
    let line = |start: &str| output.lines().find_map(|line| line.trim_start().strip_prefix(start));
    let answered = output.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse::<u64>().ok())?;
    let rate = line("Requests/sec:")?.trim().parse().ok()?;
    // Both lines are only there if there is something to tell.
    let bad = line("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.trim().parse().ok())?;
    let lost = match line("Socket errors:") {
        // `connect 0, read 12, write 0, timeout 0`
        Some(errors) => {
            errors.split(',').map(|part| part.rsplit(' ').next()?.parse::<u64>().ok()).sum::<Option<_>>()?
        }
        None => 0,
    };
    Some(Load { answered, succeeded: answered.saturating_sub(bad), lost, rate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_says_is_understood() {
        let output = "progress: 100% done\n\nfinished in 156.02ms, 12819.20 req/s, 401.74KB/s\n\
            requests: 20 total, 20 started, 19 done, 17 succeeded, 2 failed, 1 errored, 0 timeout\n\
            status codes: 17 2xx, 0 3xx, 1 4xx, 1 5xx\ntraffic: 62.68KB (64182) total\n";
        let expected = Load { answered: 19, succeeded: 17, lost: 1, rate: 12819.2 };
        assert_eq!(of_h2load(output), Some(expected));
        assert_eq!(of_h2load("could not connect"), None);
    }

    #[test]
    fn what_wrk_says_is_understood() {
        let well = "Running 1s test @ http://x/\n  33513 requests in 1.10s, 3.90MB read\nRequests/sec:  30468.77\n";
        let expected = Load { answered: 33_513, succeeded: 33_513, lost: 0, rate: 30_468.77 };
        assert_eq!(of_wrk(well), Some(expected));
        let badly = "  100 requests in 1.10s, 3.90MB read\n  Socket errors: connect 1, read 12, write 0, timeout 2\n  \
            Non-2xx or 3xx responses: 40\nRequests/sec:     90.00\n";
        assert_eq!(of_wrk(badly), Some(Load { answered: 100, succeeded: 60, lost: 15, rate: 90.0 }));
        assert_eq!(of_wrk("unable to connect"), None);
    }
}
