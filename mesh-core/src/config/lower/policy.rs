use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::super::choice::{MethodList, NonFatal};
use super::super::duration::format;
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::{exactly_one, has_no_effect, matching};
use crate::model::{
    Backoff, HashPolicy, HashSource, HedgePolicy, RetryBudget, RetryMethods, RetryOn, RetryPolicy, RetryThrottling,
};

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
    let headers = &section.retriable_headers;
    if let Some(Spanned { value: words, .. }) = section.on.given() {
        let on = Conditions { field: "on", words, of: |on: RetryOn| on };
        on.companion(RetryOn::RETRIABLE_STATUS_CODES, "retriable_status_codes", codes, path, context);
        on.companion(RetryOn::RETRIABLE_HEADERS, "retriable_headers", headers, path, context);
    }
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
    policy.methods = methods(&section.methods);
    policy.max_body_bytes = section.max_body_bytes.or(policy.max_body_bytes);
    policy
}

fn methods(field: &Field<MethodList>) -> RetryMethods {
    match field.value() {
        None => RetryMethods::default(),
        Some(MethodList::All) => RetryMethods::All,
        Some(MethodList::Only(methods)) => {
            RetryMethods::Only(methods.iter().filter_map(Field::value).cloned().collect())
        }
    }
}

/// Reports a retry policy beside a hedging policy: a call has one of them.
pub(super) fn one_of_retry_and_hedging(
    retry: &Field<Option<schema::Retry>>,
    hedging: &Field<Option<schema::Hedging>>,
    path: Path<'_>,
    context: &mut Context,
) {
    if let (Some(Spanned { value: Some(_), .. }), Some(Spanned { value: Some(_), at })) =
        (retry.given(), hedging.given())
    {
        context.report(*at, path.key("hedging"), || {
            let draft = Draft::new("`retry` and `hedging` exclude each other: write one of them");
            draft.help("`non_fatal` of `hedging` names the answers that another attempt follows")
        });
    }
}

/// The hedging policy of `field`: `None` where the field is not there, `Some(None)` where it says `none`.
pub(super) fn hedging(
    field: &Field<Option<schema::Hedging>>,
    path: Path<'_>,
    context: &mut Context,
) -> Option<Option<Arc<HedgePolicy>>> {
    let path = path.key("hedging");
    Some(field.value()?.as_ref().and_then(|section| Some(Arc::new(hedge_policy(section, path, context)?))))
}

fn hedge_policy(section: &schema::Hedging, path: Path<'_>, context: &mut Context) -> Option<HedgePolicy> {
    let words: &[_] = section.non_fatal.value().map_or(&[], Vec::as_slice);
    let codes = &section.retriable_status_codes;
    let on = Conditions { field: "non_fatal", words, of: |word: NonFatal| word.0 };
    if !section.non_fatal.is_invalid() {
        on.companion(RetryOn::RETRIABLE_STATUS_CODES, "retriable_status_codes", codes, path, context);
    }
    let mut policy = HedgePolicy::new(section.max_attempts.or(2), *section.delay.value()?);
    policy.non_fatal = words.iter().filter_map(Field::value).fold(RetryOn::none(), |on, word| on.union(word.0));
    let codes = codes.value().into_iter().flatten().filter_map(Field::value);
    // 400..=599 by their shape.
    policy.status_codes = codes.filter_map(|code| StatusCode::from_u16(*code).ok()).collect();
    policy.methods = methods(&section.methods);
    policy.max_body_bytes = section.max_body_bytes.or(policy.max_body_bytes);
    Some(policy)
}

/// The conditions of a field, of whatever vocabulary.
struct Conditions<'a, V> {
    field: &'static str,
    words: &'a [Field<V>],
    of: fn(V) -> RetryOn,
}

impl<V: Copy> Conditions<'_, V> {
    /// Reports a condition without the field with its details, and the other way round.
    fn companion<D>(
        &self,
        condition: RetryOn,
        name: &'static str,
        details: &Field<D>,
        path: Path<'_>,
        context: &mut Context,
    ) {
        let Self { field, words, of } = *self;
        let word = condition.words().next().unwrap_or_default();
        let named = words
            .iter()
            .enumerate()
            .find_map(|(index, on)| on.given().filter(|on| of(on.value) == condition).map(|on| (index, on.at)));
        match (named, details) {
            (Some((index, at)), Field::Absent) => context.report(at, path.key(field).index(index), || {
                Draft::new(format!("`{word}` needs the field `{name}` beside `{field}`")).about(word)
            }),
            (None, Field::Given(Spanned { at, .. })) if !words.iter().any(Field::is_invalid) => {
                context.report(*at, path.key(name), || {
                    Draft::new(format!("`{name}` has no effect unless `{field}` has `{word}`"))
                        .help(format!("add `{word}` to `{field}`"))
                });
            }
            _ => {}
        }
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
    let schema::HashPolicy { header, query, cookie, source_ip, terminal, at, is_doubtful: _ } = section;
    let fields = [
        ("header", header.is_written()),
        ("query", query.is_written()),
        ("cookie", cookie.is_written()),
        ("source_ip", source_ip.is_written()),
    ];
    exactly_one(&fields, *at, path, context);
    let header = header.value().map(|name| HashSource::Header { name: name.clone(), rewrite: None });
    let query = || query.value().cloned().map(HashSource::QueryParameter);
    let source_ip = || source_ip.value().map(|()| HashSource::SourceAddress);
    let cookie = cookie.value().and_then(|section| cookie_source(section, path.key("cookie"), context));
    let source = header.or_else(query).or_else(source_ip).or(cookie)?;
    Some(HashPolicy { source, terminal: terminal.or(false) })
}

fn cookie_source(section: &schema::HashCookie, path: Path<'_>, context: &mut Context) -> Option<HashSource> {
    if !section.ttl.is_written() {
        has_no_effect(&section.path, "path", "without `ttl`: no cookie is made up", path, context);
    }
    let (ttl, path) = (section.ttl.value().copied(), section.path.value().cloned());
    Some(HashSource::Cookie { name: section.name.value()?.clone(), ttl, path })
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
