use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::{exactly_one, has_no_effect};
use crate::model::{Fraction, HeaderMatch, PathMatch, Pattern, QueryMatch, RouteMatch, StringMatch, ValueMatch};

pub(super) fn route_match(section: &schema::Match, path: Path<'_>, context: &mut Context) -> RouteMatch {
    let mut route_match = RouteMatch { method: section.method.value().cloned(), ..RouteMatch::default() };
    if let Some(section) = section.path.value() {
        route_match.path = path_match(section, path.key("path"), context);
        route_match.ignore_path_case = section.ignore_case.or(false);
    }
    let headers = path.key("headers");
    for (index, section) in section.headers.value().into_iter().flatten().enumerate() {
        if let Some(section) = section.value() {
            route_match.headers.extend(header_match(section, headers.index(index), context));
        }
    }
    let query = path.key("query");
    for (index, section) in section.query.value().into_iter().flatten().enumerate() {
        if let Some(section) = section.value() {
            route_match.query.extend(query_match(section, query.index(index), context));
        }
    }
    if section.percent.is_written() && section.fraction.is_written() {
        let fields = [("percent", true), ("fraction", true)];
        exactly_one(&fields, section.at, path, context);
    }
    route_match.fraction = match (section.percent.value(), section.fraction.value()) {
        (Some(percent), _) => Some(Fraction::per_million(*percent)),
        (None, Some(section)) => fraction(section, path.key("fraction"), context),
        (None, None) => None,
    };
    route_match
}

fn path_match(section: &schema::PathMatch, path: Path<'_>, context: &mut Context) -> Option<PathMatch> {
    let schema::PathMatch { exact, prefix, regex, ignore_case, at, is_doubtful: _ } = section;
    let fields = [("exact", exact.is_written()), ("prefix", prefix.is_written()), ("regex", regex.is_written())];
    exactly_one(&fields, *at, path, context);
    if regex.is_written() {
        has_no_effect(ignore_case, "ignore_case", "on a `regex`, which can begin with `(?i)`", path, context);
    }
    let exact = exact.value().cloned().map(PathMatch::Exact);
    let prefix = || prefix.value().cloned().map(PathMatch::PathPrefix);
    let regex = || regex.value().cloned().map(PathMatch::Regex);
    exact.or_else(prefix).or_else(regex)
}

fn fraction(section: &schema::Fraction, path: Path<'_>, context: &mut Context) -> Option<Fraction> {
    let numerator = *section.numerator.value()?;
    let denominator = *section.denominator.value()?;
    if numerator > denominator {
        context.report(section.at, path, || {
            Draft::new(format!("{numerator} of {denominator} is more than all: `numerator` is at most `denominator`"))
        });
        return None;
    }
    let parts =
        (u64::from(numerator) * u64::from(Fraction::DENOMINATOR) + u64::from(denominator) / 2) / u64::from(denominator);
    // At most a million, because the numerator is at most the denominator.
    u32::try_from(parts).ok().map(Fraction::per_million)
}

pub(super) fn header_match(
    section: &schema::HeaderMatch,
    path: Path<'_>,
    context: &mut Context,
) -> Option<HeaderMatch> {
    let schema::HeaderMatch {
        name,
        exact,
        prefix,
        suffix,
        contains,
        regex,
        range,
        present,
        ignore_case,
        invert,
        at,
        is_doubtful: _,
    } = section;
    let texts = Texts { exact, prefix, suffix, contains, regex, ignore_case };
    let [a, b, c, d, e] = texts.fields();
    let fields = [a, b, c, d, e, ("range", range.is_written()), ("present", present.is_written())];
    exactly_one(&fields, *at, path, context);
    if range.is_written() {
        has_no_effect(ignore_case, "ignore_case", "on a `range`", path, context);
    }
    if let Some(section) = range.value()
        && let (Some(start), Some(end)) = (section.start.value(), section.end.value())
        && start >= end
    {
        context.report(section.at, path.key("range"), || {
            let message = format!("the range from {start} to {end} is empty: `end` is the first number outside of it");
            Draft::new(message).help("`end` must be greater than `start`")
        });
    }
    let text = texts.value(present, path, context);
    let range = range
        .value()
        .and_then(|section| Some(ValueMatch::Range { start: *section.start.value()?, end: *section.end.value()? }));
    let value = text.or(range)?;
    Some(HeaderMatch { name: name.value()?.clone(), value, invert: invert.or(false) })
}

fn query_match(section: &schema::QueryMatch, path: Path<'_>, context: &mut Context) -> Option<QueryMatch> {
    let schema::QueryMatch { name, exact, prefix, suffix, contains, regex, present, ignore_case, at, is_doubtful: _ } =
        section;
    let texts = Texts { exact, prefix, suffix, contains, regex, ignore_case };
    let [a, b, c, d, e] = texts.fields();
    exactly_one(&[a, b, c, d, e, ("present", present.is_written())], *at, path, context);
    let value = texts.value(present, path, context);
    Some(QueryMatch::new(name.value()?.clone(), value?))
}

/// The matchers that headers and query parameters share.
struct Texts<'a> {
    exact: &'a Field<std::sync::Arc<str>>,
    prefix: &'a Field<std::sync::Arc<str>>,
    suffix: &'a Field<std::sync::Arc<str>>,
    contains: &'a Field<std::sync::Arc<str>>,
    regex: &'a Field<Pattern>,
    ignore_case: &'a Field<bool>,
}

impl Texts<'_> {
    fn fields(&self) -> [(&'static str, bool); 5] {
        [
            ("exact", self.exact.is_written()),
            ("prefix", self.prefix.is_written()),
            ("suffix", self.suffix.is_written()),
            ("contains", self.contains.is_written()),
            ("regex", self.regex.is_written()),
        ]
    }

    fn value(&self, present: &Field<bool>, path: Path<'_>, context: &mut Context) -> Option<ValueMatch> {
        if self.regex.is_written() {
            has_no_effect(self.ignore_case, "ignore_case", "on a `regex`, which can begin with `(?i)`", path, context);
        }
        if present.is_written() {
            has_no_effect(self.ignore_case, "ignore_case", "on `present`", path, context);
        }
        let ignore_case = self.ignore_case.or(false);
        let string = if let Some(Spanned { value, .. }) = self.exact.given() {
            StringMatch::Exact { value: value.clone(), ignore_case }
        } else if let Some(Spanned { value, .. }) = self.prefix.given() {
            StringMatch::Prefix { value: value.clone(), ignore_case }
        } else if let Some(Spanned { value, .. }) = self.suffix.given() {
            StringMatch::Suffix { value: value.clone(), ignore_case }
        } else if let Some(Spanned { value, .. }) = self.contains.given() {
            StringMatch::Contains { value: value.clone(), ignore_case }
        } else if let Some(Spanned { value, .. }) = self.regex.given() {
            StringMatch::Regex(value.clone())
        } else {
            return present.value().copied().map(ValueMatch::Present);
        };
        Some(ValueMatch::String(string))
    }
}
