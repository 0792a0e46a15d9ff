//! What the pages say.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::{Value, json};

use crate::identity::Utc;
use crate::mesh::Core;
use crate::server::Readiness;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What there is, for people.
const LINKS: [(&str, &str); 6] = [
    ("live", "whether the process serves"),
    ("ready", "whether it is ready, and why not"),
    ("metrics", "every metric, for Prometheus"),
    ("config", "the configuration in force, each value with who said it"),
    ("config?format=json", "the same as JSON"),
    ("certs", "the certificate of this process, and how its renewal goes"),
];

pub(super) fn answer(status: StatusCode, kind: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(super) fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    answer(status, TEXT, text)
}

pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    answer(status, JSON, format!("{value:#}\n"))
}

pub(super) fn index(core: &Core) -> Response {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>mesh</title>\n<h1>mesh</h1>\n<ul>\n",
    );
    for (link, what) in LINKS {
        // Relative, so that it holds wherever the pages are mounted, if that is with a slash behind.
        let _ = writeln!(page, "<li><a href=\"{link}\">{link}</a>: {what}");
    }
    page.push_str("</ul>\n<dl>\n");
    for (name, value) in facts(core) {
        let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
    }
    page.push_str("</dl>\n");
    answer(StatusCode::OK, HTML, page)
}

/// What is worth a look at once.
fn facts(core: &Core) -> Vec<(&'static str, String)> {
    let status = core.subscribe();
    let status = status.borrow();
    let snapshot = core.snapshot.load();
    let mut facts = vec![
        ("library", concat!("mesh-tower ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("configuration", format!("version {}", status.version)),
    ];
    if let Some(error) = &status.error {
        facts.push(("refused configuration", error.to_string()));
    }
    if let Some(identity) = core.shared.identities.current() {
        let id = identity.id().map_or_else(|| "without a SPIFFE id".to_owned(), ToString::to_string);
        facts.push(("identity", format!("{id}, valid until {}", Utc(identity.not_after()))));
    }
    for server in snapshot.servers().keys() {
        let served = if core.servers.is_served(server) { "served" } else { "not served" };
        facts.push(("server", format!("{server}: {served}")));
    }
    facts.push(("services", snapshot.virtual_hosts().len().to_string()));
    facts.push(("backends", snapshot.backends().count().to_string()));
    let readiness = core.readiness();
    if readiness.is_ready() {
        facts.push(("ready", "yes".to_owned()));
    }
    facts.extend(readiness.failed().iter().map(|reason| ("not ready", reason.to_string())));
    facts
}

/// Text in HTML, wherever it stands (AD-05).
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
        escaped
    })
}

pub(super) fn ready(readiness: &Readiness) -> Response {
    let failed: Vec<_> = readiness
        .failed()
        .iter()
        .map(|reason| json!({ "gate": reason.as_str(), "reason": reason.to_string() }))
        .collect();
    let status = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &json!({ "ready": failed.is_empty(), "failed": failed }))
}

/// Nothing of the key: what is shown is public in every handshake, or of the source.
pub(super) fn certs(core: &Core, now: SystemTime) -> Response {
    let status = core.shared.identities.status();
    let status = status.borrow();
    let time = |time: SystemTime| Utc(time).to_string();
    let certificate = core.shared.identities.current().map(|identity| {
        json!({
            "id": identity.id().map(ToString::to_string),
            "serial": identity.serial(),
            "not_before": time(identity.not_before()),
            "not_after": time(identity.not_after()),
            "days_left": days_left(identity.not_after(), now),
            "generation": identity.generation(),
            "trust_domains": identity.trust_domains().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let failure = status.failure.as_ref().map(|failure| json!({ "at": time(failure.at), "error": &*failure.error }));
    let page = json!({
        "certificate": certificate,
        "source": Some(&*status.source).filter(|source| !source.is_empty()),
        "last_reload": status.loaded_at.map(time),
        "last_failure": failure,
        "failures": status.failures,
        "warnings": status.warnings.iter().map(|warning| &**warning).collect::<Vec<_>>(),
    });
    json(StatusCode::OK, &page)
}

/// Negative once it has expired; in hundredths.
fn days_left(not_after: SystemTime, now: SystemTime) -> f64 {
    let days = |left: Duration| (left.as_secs_f64() / 86_400.0 * 100.0).round() / 100.0;
    match not_after.duration_since(now) {
        Ok(left) => days(left),
        Err(past) => -days(past.duration()),
    }
}

/// The configuration in force, or what is known of one that was made in code: its status, content type and text.
pub(super) fn config(core: &Core, as_json: bool) -> (StatusCode, HeaderValue, String) {
    let Some(effective) = core.effective_config() else {
        return (StatusCode::NOT_FOUND, TEXT, describe(core));
    };
    if !as_json {
        return (StatusCode::OK, TEXT, effective.to_string());
    }
    match serde_json::to_string_pretty(&*effective) {
        Ok(text) => (StatusCode::OK, JSON, text + "\n"),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("the configuration is no JSON: {error}\n")),
    }
}

/// What a configuration made in code amounts to: names and numbers, whatever their size.
fn describe(core: &Core) -> String {
    let snapshot = core.snapshot.load();
    let mut text = format!(
        "The configuration was made in code: there is no file to show. In force is version {}:\n",
        snapshot.version()
    );
    for host in snapshot.virtual_hosts() {
        let _ = writeln!(text, "service {:?}: {} routes", host.name(), host.routes().len());
    }
    for backend in snapshot.backends() {
        let _ =
            writeln!(text, "backend {:?}: {} endpoints", backend.id().to_string(), backend.picker().endpoints().len());
    }
    for server in snapshot.servers().values() {
        let _ = writeln!(text, "server {:?}: {} addresses", server.name, server.addresses.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ad_05_text_is_escaped() {
        assert_eq!(
            escape("<script>alert('&\"')</script>"),
            "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"
        );
    }

    #[test]
    fn days_are_counted_down_and_beyond() {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::UNIX_EPOCH + 100 * day;
        assert_eq!(days_left(now + day * 3 / 2, now), 1.5);
        assert_eq!(days_left(now - day / 4, now), -0.25);
    }
}
