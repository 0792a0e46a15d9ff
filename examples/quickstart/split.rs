use std::fmt;

use crate::tally::Tally;

/// How the requests of one configuration were spread over v1 and v2.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Split {
    /// The weights of v1 and v2 in percent.
    pub(crate) weights: [u32; 2],
    /// The requests that drew v1 and v2.
    pub(crate) counts: [u64; 2],
}

impl Split {
    /// What was counted under the configuration `version`.
    pub(crate) fn of(tally: &Tally, version: u64, weights: [u32; 2]) -> Self {
        Self { weights, counts: ["v1", "v2"].map(|backend| tally.drawn(version, backend)) }
    }

    /// Whether chance explains the counts: v1's is within five standard deviations of its expectation, or, where
    /// nothing is left to chance, exact. No requests at all prove nothing.
    pub(crate) fn holds(&self) -> bool {
        let ([v1, v2], [w1, w2]) = (self.counts.map(i128::from), self.weights.map(i128::from));
        // In whole numbers: |v1 - np| <= 5 * sqrt(np(1 - p)), times the sum of the weights, squared.
        let (requests, weights) = (v1 + v2, w1 + w2);
        requests > 0 && (v1 * weights - requests * w1).pow(2) <= 25 * requests * w1 * w2
    }

    /// The shares in percent.
    pub(crate) fn percent(&self) -> [f64; 2] {
        let requests = self.counts.iter().sum::<u64>().max(1) as f64;
        self.counts.map(|count| count as f64 * 100.0 / requests)
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([w1, w2], [v1, v2]) = (self.weights, self.counts);
        let share = f64::from(w1) / 100.0;
        let five_sigma = 500.0 * (share * (1.0 - share) / ((v1 + v2).max(1)) as f64).sqrt();
        write!(f, "{w1:>3}/{w2:<3}  v1 {v1:>4}  v2 {v2:>4}  v1 had {:.1} %, ", self.percent()[0])?;
        if v1 + v2 == 0 {
            return f.write_str("nothing was counted: FAILED");
        }
        let allowed = if five_sigma == 0.0 { "exactly".to_owned() } else { format!("± {five_sigma:.1}") };
        write!(f, "allowed {w1} % {allowed}: {}", if self.holds() { "ok" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_sigma_decide() {
        // At 90/10 and 10,000 requests sigma is 30, at 50/50 and 400 it is 10.
        for (weights, counts, expected) in [
            ([90, 10], [9000, 1000], true),
            ([90, 10], [9150, 850], true),
            ([90, 10], [9151, 849], false),
            ([90, 10], [8850, 1150], true),
            ([90, 10], [8849, 1151], false),
            ([50, 50], [250, 150], true),
            ([50, 50], [251, 149], false),
            ([0, 100], [0, 1], true),
            ([0, 100], [1, 1_000_000], false),
            ([100, 0], [500, 0], true),
            ([100, 0], [500, 1], false),
            ([50, 50], [0, 0], false),
        ] {
            let split = Split { weights, counts };
            assert_eq!(split.holds(), expected, "{split}");
            assert_eq!(split.to_string().ends_with("ok"), expected, "{split}");
        }
    }
}
