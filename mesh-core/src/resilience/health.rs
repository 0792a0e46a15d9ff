//! What answers to health checks make of an endpoint.

use crate::model::HealthCheck;

/// What an endpoint has answered so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealthRecord {
    asked: bool,
    /// How many answers in a row speak against what it is taken for.
    against: u32,
}

impl HealthRecord {
    /// It gave an answer that is good or bad, or owes it, which is bad. `is_healthy`: what it is taken for. Returns what
    /// it is to be taken for from now on, if that is something else.
    ///
    /// The first answer of all counts at once, later ones by the thresholds of `check`.
    pub fn answered(&mut self, check: &HealthCheck, is_healthy: bool, good: bool) -> Option<bool> {
        let first = !std::mem::replace(&mut self.asked, true);
        if good == is_healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let threshold = if good { check.healthy_threshold } else { check.unhealthy_threshold };
        if !first && self.against < threshold {
            return None;
        }
        self.against = 0;
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HealthProbe;

    /// The answers, `+` or `-`, and whether the endpoint is healthy after each.
    #[test]
    fn health_follows_the_thresholds() {
        let table = [
            // The first answer counts at once.
            ("+", "+"),
            ("-", "-"),
            // Then three bad ones in a row are needed,
            ("+--", "+++"),
            ("+---", "+++-"),
            ("+--+--+---", "+++++++++-"),
            // and two good ones.
            ("-+", "--"),
            ("-++", "--+"),
            ("-+-+-++", "------+"),
            // It begins anew each time.
            ("-++--", "--+++"),
            ("-++---++", "--+++--+"),
        ];
        let check = HealthCheck::new(HealthProbe::Grpc { service: "".into() });
        for (answers, wanted) in table {
            let (mut record, mut healthy) = (HealthRecord::default(), true);
            let mut seen = String::new();
            for answer in answers.chars() {
                if let Some(changed) = record.answered(&check, healthy, answer == '+') {
                    assert_ne!(changed, healthy, "{answers}");
                    healthy = changed;
                }
                seen.push(if healthy { '+' } else { '-' });
            }
            assert_eq!(seen, wanted, "{answers}");
        }
    }

    #[test]
    fn thresholds_of_one_follow_each_answer() {
        let mut check = HealthCheck::new(HealthProbe::Grpc { service: "".into() });
        (check.healthy_threshold, check.unhealthy_threshold) = (1, 1);
        let mut record = HealthRecord::default();
        assert_eq!(record.answered(&check, true, true), None);
        assert_eq!(record.answered(&check, true, false), Some(false));
        assert_eq!(record.answered(&check, false, true), Some(true));
    }
}
