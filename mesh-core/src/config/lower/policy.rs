use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::super::choice::MethodList;
use super::super::duration::format;
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::{exactly_one, matching};
use crate::model::{Backoff, HashPolicy, HashSource, RetryBudget, RetryMethods, RetryOn, RetryPolicy, RetryThrottling};

/// The retry policy of `field`: `None` where the field is not there, `Some(None)` where it says `none`.
pub(super) fn retry(
    field: &Field<Option<schema::Retry>>,
    path: Path<'_>,
    context: &mut Context,
) -> Option<Option<Arc<RetryPolicy>>> {
    let section = field.value()?;
    Some(section.as_ref().map(|section| Arc::new(retry_policy(section, path.key("retry"), context))))
}

fn retry_policy(section: &schema::Retry, path: Path<'_>, context: &mut Context) -> RetryPolicy {
    let words = section.on.value().into_iter().flatten().filter_map(Field::value);
    let on = words.copied().fold(RetryOn::none(), RetryOn::union);
    let codes = &section.retriable_status_codes;
    companion(section, RetryOn::RETRIABLE_STATUS_CODES, "retriable_status_codes", codes, path, context);
    let headers = &section.retriable_headers;
    companion(section, RetryOn::RETRIABLE_HEADERS, "retriable_headers", headers, path, context);
    let mut policy = RetryPolicy::new(on);
    policy.num_retries = section.num_retries.or(policy.num_retries);
    policy.per_try_timeout = section.per_try_timeout.value().copied().flatten();
    if let Some(section) = section.backoff.value() {
        policy.backoff = backoff(section, path.key("backoff"), context);
    }
    let codes = codes.value().into_iter().flatten().filter_map(Field::value);
    // 400..=599 by their shape.
    policy.status_codes = codes.filter_map(|code| StatusCode::from_u16(*code).ok()).collect();
    let headers_path = path.key("retriable_headers");
    for (index, section) in headers.value().into_iter().flatten().enumerate() {
        if let Some(section) = section.value() {
            policy.headers.extend(matching::header_match(section, headers_path.index(index), context));
        }
    }
    policy.methods = match section.methods.value() {
        None => RetryMethods::default(),
        Some(MethodList::All) => RetryMethods::All,
        Some(MethodList::Only(methods)) => {
            RetryMethods::Only(methods.iter().filter_map(Field::value).cloned().collect())
        }
    };
    policy.max_body_bytes = section.max_body_bytes.or(policy.max_body_bytes);
    policy
}

/// A condition and the field with its details come together or not at all.
fn companion<V>(
    section: &schema::Retry,
    condition: RetryOn,
    name: &'static str,
    details: &Field<V>,
    path: Path<'_>,
    context: &mut Context,
) {
    let Some(Spanned { value: words, .. }) = section.on.given() else { return };
    let word = condition.words().next().unwrap_or_default();
    let named = words
        .iter()
        .enumerate()
        .find_map(|(index, on)| on.given().filter(|on| on.value == condition).map(|on| (index, on.at)));
    match (named, details) {
        (Some((index, at)), Field::Absent) => context.report(at, path.key("on").index(index), || {
            Draft::new(format!("`{word}` needs the field `{name}` beside `on`")).about(word)
        }),
        (None, Field::Given(Spanned { at, .. })) if !words.iter().any(Field::is_invalid) => {
            context.report(*at, path.key(name), || {
                Draft::new(format!("`{name}` has no effect unless `on` has `{word}`"))
                    .help(format!("add `{word}` to `on`"))
            });
        }
        _ => {}
    }
}

fn backoff(section: &schema::Backoff, path: Path<'_>, context: &mut Context) -> Backoff {
    let base = section.base.or(Backoff::default().base);
    let max = section.max.or(schema::Backoff::longest(base));
    at_least_base(&section.base, &section.max, path, context);
    Backoff { base, max }
}

/// Reports a `max` below its `base`.
pub(super) fn at_least_base(base: &Field<Duration>, max: &Field<Duration>, path: Path<'_>, context: &mut Context) {
    if let (Some(base), Some(max)) = (base.value(), max.given())
        && max.value < *base
    {
        context.report(max.at, path.key("max"), || {
            let [shown, base] = [max.value, *base].map(format);
            Draft::new(format!("{shown} is less than `base`: write at least {base}")).about(&shown)
        });
    }
}

/// The hash policies of `field`, if it is there.
pub(super) fn hash(
    field: &Field<Vec<Field<schema::HashPolicy>>>,
    path: Path<'_>,
    context: &mut Context,
) -> Option<Arc<[HashPolicy]>> {
    let path = path.key("hash_policy");
    let sections = field.value()?.iter().enumerate();
    let policies = sections.filter_map(|(index, section)| hash_policy(section.value()?, path.index(index), context));
    Some(policies.collect())
}

fn hash_policy(section: &schema::HashPolicy, path: Path<'_>, context: &mut Context) -> Option<HashPolicy> {
    let schema::HashPolicy { header, query, terminal, at, is_doubtful: _ } = section;
    exactly_one(&[("header", header.is_written()), ("query", query.is_written())], *at, path, context);
    let header = header.value().map(|name| HashSource::Header { name: name.clone(), rewrite: None });
    let source = header.or_else(|| query.value().cloned().map(HashSource::QueryParameter))?;
    Some(HashPolicy { source, terminal: terminal.or(false) })
}

pub(super) fn retry_budget(section: &schema::RetryBudget) -> RetryBudget {
    let default = RetryBudget::default();
    RetryBudget {
        percent: section.percent.value().map_or(default.percent, |scaled| f64::from(*scaled) / 10_000.0),
        min_concurrent: section.min_concurrent.or(default.min_concurrent),
    }
}

pub(super) fn retry_throttling(section: &schema::RetryThrottling) -> RetryThrottling {
    // Both are required; the numbers stand in where one was refused.
    RetryThrottling { max_tokens: section.max_tokens.or(1), token_ratio_millis: section.token_ratio.or(1) }
}
