use super::Retry;
use crate::classify::{Attempt, Failure};

/// How often a request was sent again because no peer had processed it.
#[derive(Debug, Clone, Default)]
pub(in crate::resilience) struct Resends {
    /// Attempts in a row that never left the client.
    unsent: u32,
    /// Whether the one resend of a refused request is used up.
    refused: bool,
}

impl Resends {
    /// Whether this attempt is one that is sent again whatever the policy, and counts it.
    pub(in crate::resilience) fn allow(&mut self, attempt: &Attempt<'_>) -> bool {
        match attempt {
            Attempt::Failed(Failure::NotSent) if self.unsent < Retry::MAX_UNSENT_IN_A_ROW => {
                self.unsent += 1;
                true
            }
            Attempt::Failed(Failure::Refused) => {
                self.unsent = 0;
                !std::mem::replace(&mut self.refused, true)
            }
            _ => {
                self.unsent = 0;
                false
            }
        }
    }
}
