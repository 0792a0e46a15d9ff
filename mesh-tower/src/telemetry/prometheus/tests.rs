use std::collections::BTreeMap;

use proptest::prelude::{Strategy, any, prop, proptest};

use super::*;
use crate::telemetry::metrics::Bounds;

/// A sample: its name, its labels, its value.
type Sample = (String, Vec<(String, String)>, f64);

/// Reads the text format 0.0.4 as strictly as it is specified; the samples of each metric by its name and kind.
fn parse(page: &str) -> BTreeMap<(String, String), Vec<Sample>> {
    let mut metrics = BTreeMap::new();
    assert!(page.is_empty() || page.ends_with('\n'));
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(!help.is_empty());
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = sample(line);
            let suffix = sample.0.strip_prefix(name).unwrap();
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            samples.push(sample);
        }
        assert!(!samples.is_empty(), "{name} is empty");
        assert!(metrics.insert((name.to_owned(), kind.to_owned()), samples).is_none(), "{name} twice");
    }
    metrics
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().unwrap() {
                    (end, '"') => break end,
                    (_, '\\') => value.push(match characters.next().unwrap().1 {
                        'n' => '\n',
                        other @ ('\\' | '"') => other,
                        other => panic!("\\{other} in {line}"),
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    let value = rest.strip_prefix(' ').unwrap();
    (name.to_owned(), labels, value.parse().unwrap())
}

fn family<'a>(page: &'a mut String, kind: &'static str, format: Format) -> Family<'a> {
    Family { name: "mesh_test".to_owned(), unit: "", kind, help: "A test.", format, page, begun: false }
}

proptest! {
    /// Whatever a service, a route or a backend is called, the page stays readable and says it.
    #[test]
    fn no_value_of_a_label_breaks_the_format(
        values in prop::collection::vec(any::<String>().prop_map(|text| text + "\\\n\"{},= #"), 0..4),
        number in any::<u64>(),
    ) {
        let labels: Vec<_> = values.iter().map(|value| KeyValue::new("mesh.label", value.clone())).collect();
        let mut page = String::new();
        family(&mut page, "counter", Format::Text).sample("", &labels, None, number);
        // A carriage return is no end of a line here.
        let parsed = sample(page.strip_suffix('\n').unwrap().splitn(3, '\n').last().unwrap());
        let expected: Vec<_> = values.into_iter().map(|value| ("mesh_label".to_owned(), value)).collect();
        assert_eq!(parsed, ("mesh_test_total".to_owned(), expected, number as f64));
    }
}

#[test]
fn histograms_are_written_with_their_sums() {
    let mut page = String::new();
    let recorder = Recorder::new(vec![KeyValue::new("grpc.method", "a.B/C")], None, Some(Bounds::Retries));
    for value in [1.0, 3.0, 3.0, 7.0] {
        recorder.record(value);
    }
    family(&mut page, "histogram", Format::Text).histogram(&recorder);
    let expected = r#"# HELP mesh_test A test.
# TYPE mesh_test histogram
mesh_test_bucket{grpc_method="a.B/C",le="1"} 1
mesh_test_bucket{grpc_method="a.B/C",le="2"} 1
mesh_test_bucket{grpc_method="a.B/C",le="3"} 3
mesh_test_bucket{grpc_method="a.B/C",le="4"} 3
mesh_test_bucket{grpc_method="a.B/C",le="5"} 3
mesh_test_bucket{grpc_method="a.B/C",le="+Inf"} 4
mesh_test_sum{grpc_method="a.B/C"} 14
mesh_test_count{grpc_method="a.B/C"} 4
"#;
    assert_eq!(page, expected);
}

/// Nothing but what has values is on a page, under the name that Prometheus gives it.
#[test]
fn a_page_can_be_read_back() {
    let page = page(&Metrics::new(None, true), Format::Text);
    let metrics = parse(&page);
    let names: Vec<_> = metrics.keys().map(|(name, kind)| (&**name, &**kind)).collect();
    let expected = [
        ("mesh_build_info", "gauge"),
        ("mesh_config_age_seconds", "gauge"),
        ("mesh_config_last_reload_successful", "gauge"),
        ("mesh_config_last_reload_timestamp_seconds", "gauge"),
        ("mesh_config_reloads_total", "counter"),
        ("mesh_config_version", "gauge"),
    ];
    assert_eq!(names, expected);
    let version = &metrics[&("mesh_build_info".to_owned(), "gauge".to_owned())];
    let label = ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    assert_eq!(*version, [("mesh_build_info".to_owned(), vec![label], 1.0)]);
}

/// TL-06: names, kinds and labels of the whole catalogue are such as `promtool check metrics` lets pass.
#[test]
fn tl_06_names_are_such_as_prometheus_wants() {
    for metric in CATALOG {
        let name = metric.name.replace('.', "_");
        assert!(is_name(&name) && name.to_ascii_lowercase() == name, "{name}");
        assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']), "{name}: {}", metric.help);
        assert!(!name.ends_with("_total") && !name.ends_with("_seconds"), "{name}: the page adds that");
        let known = ["s", ""].contains(&metric.unit) || metric.unit.starts_with('{');
        assert!(known, "{name}: the page knows no unit {}", metric.unit);
    }
}

/// TL-06: the grammar of OpenMetrics 1.0, as far as it says more than the text format.
#[test]
fn tl_06_a_page_of_openmetrics_is_valid() {
    let metrics = Metrics::new(None, true);
    let series = metrics.server(&"web".into());
    series.accepted();
    series.handshake(Ok(std::time::Duration::from_millis(20)));
    series.handshake(Err("expired"));
    let page = page(&metrics, Format::OpenMetrics);
    let body = page.strip_suffix("# EOF\n").unwrap();
    assert!(!body.contains("# EOF") && !body.contains("\n\n"));
    let mut families = std::collections::BTreeSet::new();
    let mut lines = body.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, kind) = line.strip_prefix("# TYPE ").unwrap().split_once(' ').unwrap();
        assert!(families.insert(name.to_owned()), "{name} twice");
        assert!(!name.ends_with("_total"), "{name}");
        let unit = lines.next_if(|line| line.starts_with("# UNIT "));
        assert_eq!(unit.is_some(), name.ends_with("_seconds"), "{name}");
        assert!(unit.is_none_or(|unit| unit == format!("# UNIT {name} seconds")));
        assert!(lines.next().unwrap().starts_with(&format!("# HELP {name} ")));
        let mut samples = 0;
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (sample, labels, _) = sample(line);
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&sample.strip_prefix(name).unwrap()), "{line}");
            for (_, bound) in labels.iter().filter(|(label, _)| label == "le") {
                assert!(bound == "+Inf" || bound.contains('.'), "{line}");
            }
            samples += 1;
        }
        assert!(samples > 0, "{name} is empty");
    }
    assert!(body.contains("\nmesh_server_connections_accepted_total{mesh_server=\"web\"} 1\n"), "{body}");
    assert!(
        body.contains("mesh_server_handshake_duration_seconds_bucket{mesh_server=\"web\",le=\"0.025\"} 1\n"),
        "{body}"
    );
}
