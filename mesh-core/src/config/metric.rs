//! The names of reported metrics.

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(test)]
use super::json_schema::{Schema, json};
use super::suggest::did_you_mean;
use super::text::{Refusal, TextShape};

/// A metric of a load report that tells the utilization (gRFC A114).
pub(super) struct UtilizationMetric;

const PLAIN: [&str; 3] = ["cpu_utilization", "mem_utilization", "application_utilization"];
const MAPS: [&str; 2] = ["named_metrics.", "utilization."];

impl TextShape for UtilizationMetric {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "a metric: `cpu_utilization`, `mem_utilization`, `application_utilization`, `named_metrics.KEY`, \
         `utilization.KEY`"
            .into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        let is_entry = MAPS.iter().any(|map| text.strip_prefix(map).is_some_and(|key| !key.is_empty()));
        if is_entry || PLAIN.contains(&&**text) {
            return Ok(text.clone());
        }
        let refusal = Refusal::new(format!("is not {}", Self::form()));
        Err(match did_you_mean(text, PLAIN) {
            Some(help) => refusal.help(help),
            None => refusal,
        })
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^((cpu|mem|application)_utilization|(named_metrics|utilization)\\..+)$" })
    }
}
