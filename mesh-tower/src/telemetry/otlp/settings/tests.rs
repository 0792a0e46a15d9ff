use super::*;

fn read(variables: &[(&str, &str)]) -> Result<Settings, OtlpError> {
    let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Settings::read(&variable)
}

#[test]
fn without_variables_the_defaults_of_the_specification_hold() {
    let settings = read(&[]).unwrap();
    let traces = settings.traces.unwrap();
    assert_eq!(traces.endpoint, "http://localhost:4318/v1/traces");
    assert_eq!((traces.timeout, traces.headers.len(), traces.certificate), (Duration::from_secs(10), 0, None));
    assert_eq!(settings.metrics.unwrap().endpoint, "http://localhost:4318/v1/metrics");
    assert_eq!((settings.max_queue, settings.max_batch), (2048, 512));
    assert_eq!(settings.schedule_delay, Duration::from_secs(5));
    assert_eq!(settings.metric_interval, Duration::from_secs(60));
    assert_eq!(settings.temporality, Temporality::Cumulative);
    assert_eq!(format!("{:?}", settings.sampler), "ParentBased(AlwaysOn)");
    let name = settings.resource.get(&"service.name".into()).unwrap().to_string();
    assert!(name.starts_with("unknown_service:"), "{name}");
    assert!(settings.resource.get(&"telemetry.sdk.name".into()).is_some());
}

#[test]
fn each_signal_has_its_own_variables_before_the_common_ones() {
    let settings = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4318/base/"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://[::1]:9/anything"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-tenant=a"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-tenant=b"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "100"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", ""),
    ])
    .unwrap();
    let (traces, metrics) = (settings.traces.unwrap(), settings.metrics.unwrap());
    assert_eq!(traces.endpoint, "https://collector.example:4318/base/v1/traces");
    assert_eq!(metrics.endpoint, "http://[::1]:9/anything");
    assert_eq!((traces.timeout, metrics.timeout), (Duration::from_millis(100), Duration::from_secs(2)));
    assert_eq!(traces.headers["authorization"], "Bearer abc");
    assert_eq!((&*traces.headers["x-tenant"], &*metrics.headers["x-tenant"]), ("a", "b"));
    assert_eq!(metrics.headers.len(), 1);
    assert_eq!(traces.certificate.as_deref(), Some(std::path::Path::new("/etc/ca.pem")));
    assert_eq!(metrics.certificate, traces.certificate, "an empty variable counts as unset");
}

#[test]
fn signals_can_be_left_out() {
    let exported = |variables: &[(&str, &str)]| {
        let settings = read(variables).unwrap();
        (settings.traces.is_some(), settings.metrics.is_some())
    };
    assert_eq!(exported(&[("OTEL_SDK_DISABLED", "TRUE")]), (false, false));
    assert_eq!(exported(&[("OTEL_SDK_DISABLED", "false")]), (true, true));
    assert_eq!(exported(&[("OTEL_TRACES_EXPORTER", "none")]), (false, true));
    assert_eq!(exported(&[("OTEL_METRICS_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "otlp")]), (true, false));
    // What nobody exports is not looked at.
    let unused = [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")];
    assert_eq!(exported(&unused), (false, true));
}

#[test]
fn samplers_and_resources_are_read() {
    for (sampler, argument, expected) in [
        ("always_on", "", "AlwaysOn"),
        ("always_off", "", "AlwaysOff"),
        ("traceidratio", "0.25", "TraceIdRatioBased(0.25)"),
        ("traceidratio", "", "TraceIdRatioBased(1.0)"),
        ("parentbased_always_off", "", "ParentBased(AlwaysOff)"),
        ("parentbased_traceidratio", "0", "ParentBased(TraceIdRatioBased(0.0))"),
    ] {
        let settings = read(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)]).unwrap();
        assert_eq!(format!("{:?}", settings.sampler), expected);
    }
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a, team=b%2Cc,");
    let of = |settings: &Settings, key: &'static str| settings.resource.get(&key.into()).map(|value| value.to_string());
    let settings = read(&[attributes]).unwrap();
    assert_eq!(of(&settings, "service.name").as_deref(), Some("a"));
    assert_eq!(of(&settings, "team").as_deref(), Some("b,c"));
    let settings = read(&[attributes, ("OTEL_SERVICE_NAME", "checkout")]).unwrap();
    assert_eq!(of(&settings, "service.name").as_deref(), Some("checkout"));
}

/// CF-08: the error names the variable, its value and what would be right.
#[test]
fn cf_08_what_cannot_be_read_is_named() {
    for (name, value, hint) in [
        ("OTEL_TRACES_EXPORTER", "zipkin", "`otlp` or `none`"),
        ("OTEL_METRICS_EXPORTER", "prometheus", "`otlp` or `none`"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999", "from 1 to 65535"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a b", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem", "not supported"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "milliseconds"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "number"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0", "number"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "traceidratio"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "UTF-8"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "both", "delta"),
    ] {
        let error = read(&[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}={value:?}: ")) && error.contains(hint), "{error}");
    }
    let error = read(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")]).unwrap_err();
    assert_eq!(error.to_string(), "OTEL_TRACES_SAMPLER_ARG=\"2\": write a ratio from 0 to 1");
}

/// CF-08: an error about headers names the variable, the entry and the header, and never a value.
#[test]
fn cf_08_no_value_of_a_header_is_told() {
    for (value, expected) in [
        ("api-key s3cr3t", "entry 1 is not `key=value`"),
        ("api-key s3cr3t=", "the key of entry 1 is not the name of a header"),
        ("api-key: s3cr3t==", "the key of entry 1 is not the name of a header"),
        ("x-tenant=a, s3cr3t", "entry 2 is not `key=value`"),
        ("=s3cr3t", "entry 1 has no key"),
        ("a=b,api-key=s3cr3t%0A", "the value of entry 2, \"api-key\", is not one of a header"),
        ("api-key=s3cr3t%ff", "the value of entry 1, \"api-key\", is not UTF-8"),
    ] {
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS"] {
            let error = read(&[(name, value)]).unwrap_err();
            let told = error.to_string();
            assert!(told.starts_with(&format!("{name}: {expected}; write `key=value")), "{told}");
            assert!(!told.contains("s3cr3t") && !format!("{error:?}").contains("s3cr3t"), "{error:?}");
        }
    }
}

/// OpenTelemetry's rule for what is not understood, as far as it is safe to go on.
#[test]
fn what_is_not_understood_and_holds_nothing_up_is_a_warning() {
    for (name, value, hint) in [
        ("OTEL_SDK_DISABLED", "1", "counts as `false`"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "nothing is compressed"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "zstd", "nothing is compressed"),
    ] {
        let settings = read(&[(name, value)]).unwrap();
        assert!(settings.traces.is_some() && settings.metrics.is_some(), "{name}");
        let [warning] = &settings.warnings[..] else { panic!("{:?}", settings.warnings) };
        assert!(warning.starts_with(&format!("{name}={value:?}: ")) && warning.contains(hint), "{warning}");
    }
    let silent = [("OTEL_SDK_DISABLED", "False"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "none")];
    assert_eq!(read(&silent).unwrap().warnings, [""; 0]);
}

#[cfg(unix)]
#[test]
fn cf_08_what_is_not_utf_8_is_an_error_that_names_the_variable() {
    use std::os::unix::ffi::OsStringExt;
    for name in ["OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SDK_DISABLED"] {
        let value = OsString::from_vec(b"a=s3cr3t\xff".to_vec());
        let error = Settings::read_os(&|asked| (asked == name).then(|| value.clone())).unwrap_err();
        assert_eq!(error.to_string(), format!("{name}: its value is not UTF-8"));
        assert!(!format!("{error:?}").contains("s3cr3t"));
    }
    let settings = Settings::read_os(&|asked| (asked == "OTEL_TRACES_EXPORTER").then(|| "none".into())).unwrap();
    assert!(settings.traces.is_none() && settings.metrics.is_some());
}
