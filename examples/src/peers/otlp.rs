//! What a collector writes about what it took: OTLP as JSON, read into what a test asks about.

use std::collections::BTreeMap;

use serde_json::Value;

/// Attributes by key. The values are JSON's own: `span.attributes["http.request.method"] == "GET"`.
pub type Attributes = BTreeMap<String, Value>;

/// A span as the collector took it.
#[derive(Debug, Clone)]
pub struct Span {
    /// The attributes of what it belongs to, `service.name` among them.
    pub resource: Attributes,
    /// The name of the instrumentation scope.
    pub scope: String,
    /// In hex.
    pub trace_id: String,
    /// In hex.
    pub span_id: String,
    /// In hex; none for a root.
    pub parent_span_id: Option<String>,
    /// The `tracestate` that it carries; often empty.
    pub trace_state: String,
    /// Its name.
    pub name: String,
    /// `unspecified`, `internal`, `server`, `client`, `producer` or `consumer`.
    pub kind: &'static str,
    /// When it began and ended, in nanoseconds since 1970.
    pub nanoseconds: [u64; 2],
    /// Its attributes.
    pub attributes: Attributes,
    /// `unset`, `ok` or `error`.
    pub status: &'static str,
    /// What the status says besides; often empty.
    pub status_message: String,
    /// What happened meanwhile.
    pub events: Vec<Event>,
    /// The spans that it links to: trace and span, in hex.
    pub links: Vec<(String, String)>,
}

/// An event of a [`Span`].
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A metric as the collector took it the last time.
#[derive(Debug, Clone)]
pub struct Metric {
    /// The attributes of what it belongs to, `service.name` among them.
    pub resource: Attributes,
    /// The name of the instrumentation scope.
    pub scope: String,
    /// Its name.
    pub name: String,
    /// What it counts, for people.
    pub description: String,
    /// Its unit, as in UCUM.
    pub unit: String,
    /// `sum`, `gauge`, `histogram`, `exponentialHistogram` or `summary`.
    pub kind: &'static str,
    /// Whether a sum only grows.
    pub monotonic: bool,
    /// `unspecified` (also for a gauge), `delta` or `cumulative`.
    pub temporality: &'static str,
    /// One for each set of attributes.
    pub points: Vec<Point>,
}

/// A value of a [`Metric`].
#[derive(Debug, Clone)]
pub struct Point {
    /// The set of attributes that it belongs to.
    pub attributes: Attributes,
    /// The value; of a histogram the sum.
    pub value: f64,
    /// Of a histogram: how many values there were.
    pub count: u64,
    /// Of a histogram: the upper bounds of its buckets, but the last one's.
    pub bounds: Vec<f64>,
    /// Of a histogram: how many values each bucket has.
    pub buckets: Vec<u64>,
}

/// The spans of one export.
pub(super) fn spans(export: &Value) -> Vec<Span> {
    let mut spans = Vec::new();
    for (resource, scope, found) in scoped(export, "resourceSpans", "scopeSpans", "spans") {
        spans.push(Span {
            resource,
            scope,
            trace_id: text(found, "traceId"),
            span_id: text(found, "spanId"),
            parent_span_id: Some(text(found, "parentSpanId")).filter(|id| !id.is_empty()),
            trace_state: text(found, "traceState"),
            name: text(found, "name"),
            kind: named(found, "kind", &["unspecified", "internal", "server", "client", "producer", "consumer"]),
            nanoseconds: [whole(&found["startTimeUnixNano"]), whole(&found["endTimeUnixNano"])],
            attributes: attributes(found),
            status: named(&found["status"], "code", &["unset", "ok", "error"]),
            status_message: text(&found["status"], "message"),
            events: each(found, "events")
                .map(|event| Event { name: text(event, "name"), attributes: attributes(event) })
                .collect(),
            links: each(found, "links").map(|link| (text(link, "traceId"), text(link, "spanId"))).collect(),
        });
    }
    spans
}

/// The metrics of one export.
pub(super) fn metrics(export: &Value) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for (resource, scope, found) in scoped(export, "resourceMetrics", "scopeMetrics", "metrics") {
        let kinds = ["sum", "gauge", "histogram", "exponentialHistogram", "summary"];
        let name = text(found, "name");
        let kind = kinds.into_iter().find(|kind| found.get(kind).is_some());
        let kind = kind.unwrap_or_else(|| panic!("metric {name} is of no known kind: {found}"));
        let data = &found[kind];
        metrics.push(Metric {
            resource,
            scope,
            name,
            description: text(found, "description"),
            unit: text(found, "unit"),
            kind,
            monotonic: data["isMonotonic"].as_bool().unwrap_or(false),
            temporality: named(data, "aggregationTemporality", &["unspecified", "delta", "cumulative"]),
            points: each(data, "dataPoints").map(point).collect(),
        });
    }
    metrics
}

fn point(point: &Value) -> Point {
    let value = ["asInt", "asDouble", "sum"].into_iter().find_map(|key| point.get(key)).map_or(0.0, real);
    Point {
        attributes: attributes(point),
        value,
        count: point.get("count").map_or(0, whole),
        bounds: each(point, "explicitBounds").map(real).collect(),
        buckets: each(point, "bucketCounts").map(whole).collect(),
    }
}

/// Every item of an export, with its resource's attributes and its scope's name.
fn scoped<'a>(export: &'a Value, outer: &str, middle: &str, inner: &str) -> Vec<(Attributes, String, &'a Value)> {
    let mut items = Vec::new();
    for resource in each(export, outer) {
        for scope in each(resource, middle) {
            for item in each(scope, inner) {
                items.push((attributes(&resource["resource"]), text(&scope["scope"], "name"), item));
            }
        }
    }
    items
}

/// The items of a list. A list without items is left out of the JSON.
fn each<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// A string. An empty one is left out of the JSON.
fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// The name of an enum's number. Nought is left out of the JSON.
fn named(value: &Value, key: &str, names: &[&'static str]) -> &'static str {
    let number = value[key].as_u64().unwrap_or(0);
    usize::try_from(number).ok().and_then(|at| names.get(at)).unwrap_or_else(|| panic!("{key} {number} is unknown"))
}

/// A 64-bit number, which JSON has as a string.
fn whole(value: &Value) -> u64 {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.unwrap_or_else(|| panic!("{value} is no whole number"))
}

/// A number of any kind. What JSON cannot say (`Infinity`, `NaN`) is a string, too.
fn real(value: &Value) -> f64 {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.unwrap_or_else(|| panic!("{value} is no number"))
}

fn attributes(value: &Value) -> Attributes {
    each(value, "attributes").map(|pair| (text(pair, "key"), attribute(&pair["value"]))).collect()
}

/// A value without the name of its type.
fn attribute(value: &Value) -> Value {
    if let Some(number) = value.get("intValue") {
        // A string, for its 64 bits.
        return number.as_str().and_then(|text| text.parse::<i64>().ok()).map_or_else(|| number.clone(), Value::from);
    }
    if let Some(list) = value.get("arrayValue") {
        return each(list, "values").map(attribute).collect();
    }
    value.as_object().and_then(|typed| typed.values().next()).cloned().unwrap_or(Value::Null)
}
