//! CF-07, CF-08, CF-15: who has a say in the configuration of a mesh, and what it tells of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mesh_tower::core::model::{
    Config, LoadBalancer, Place, Propagator, Protocol, RetryOn, RetryPolicy, RootCertificates, Server, Tls,
    UnknownServices,
};
use mesh_tower::testing::watched;
use mesh_tower::{BuildError, Builder, Mesh};
use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const TEXT: &str = "services: { s: { backends: { b: { endpoints: [] } } } }\n";

fn builder(variables: &[(&str, &str)]) -> Builder {
    Mesh::builder().environment(variables.iter().map(|(name, value)| (name.into(), value.into())))
}

fn effective(mesh: &Mesh) -> String {
    mesh.effective_config().unwrap().to_string()
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|known| known.trim_start() == *line), "{line:?} is not in\n{text}");
    }
}

/// A directory with a configuration file.
struct Directory {
    _directory: TempDir,
    path: PathBuf,
}

impl Directory {
    fn new(content: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        fs::write(&path, content).unwrap();
        Self { _directory: directory, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Writes `content` and waits until it is in force, as `version`, or refused.
    async fn write(&self, mesh: &Mesh, content: &str, version: Option<u64>) {
        let mut status = mesh.config_status();
        fs::write(&self.path, content).unwrap();
        let is_done = |status: &mesh_tower::ConfigStatus| match version {
            Some(version) => status.version == version && status.error.is_none(),
            None => status.error.is_some(),
        };
        status.wait_for(is_done).await.unwrap();
    }
}

/// The events under the target `mesh`, with the thread they came from: a test and its mesh have one for themselves.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(ThreadId, Level, String)>>>);

impl Log {
    /// The log of this process. One for all: subscribers that come and go with tests miss events of each other's callsites.
    fn start() -> Self {
        static LOG: LazyLock<Log> = LazyLock::new(|| {
            let log = Log::default();
            tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone())).unwrap();
            log
        });
        LOG.clone()
    }

    fn of(&self, level: Level) -> Vec<String> {
        let wanted = (thread::current().id(), level);
        let log = self.0.lock().unwrap();
        log.iter().filter(|(thread, level, _)| (*thread, *level) == wanted).map(|(.., text)| text.clone()).collect()
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "mesh" {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push((thread::current().id(), *event.metadata().level(), text.0));
        }
    }
}

#[tokio::test]
async fn cf_15_nothing_at_all_is_a_mesh_that_looks_names_up() {
    let log = Log::start();
    let mesh = builder(&[("PATH", "/bin"), ("MESH_CONFIG", "")]).build().await.unwrap();
    mesh.service("anything").unwrap();
    assert_has(&effective(&mesh), &["unknown_services: dns  # default", "connect_timeout: 5s  # default"]);
    let info = log.of(Level::INFO);
    let [line] = &info[..] else { panic!("{info:?}") };
    for part in
        ["source=\"no file\"", "services=0", "unknown_services=\"dns\"", "default_timeout=None", "default_retries=0"]
    {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert_eq!(log.of(Level::WARN), [] as [String; 0]);
    mesh.shutdown().await;

    let mesh = Mesh::builder().unknown_services(UnknownServices::Dns).build().await.unwrap();
    assert_has(&effective(&mesh), &["unknown_services: dns  # builder unknown_services"]);
    mesh.shutdown().await;
}

#[tokio::test]
async fn cf_07_the_builder_wins_over_the_environment_over_the_file() {
    let text = format!("{TEXT}defaults: {{ timeout: 1s, connect_timeout: 1s, protocol: http2 }}\n");
    let variables = [("MESH_TIMEOUT", "2s"), ("MESH_CONNECT_TIMEOUT", "2s")];
    let mesh = builder(&variables).text(text).default_timeout(Duration::from_secs(3)).build().await.unwrap();
    let lines = [
        "timeout: 3s  # builder default_timeout",
        "connect_timeout: 2s  # environment MESH_CONNECT_TIMEOUT",
        "protocol: http2  # config:2:57",
        "min_ttl: 5s  # default",
    ];
    assert_has(&effective(&mesh), &lines);
    mesh.shutdown().await;
}

#[tokio::test]
async fn cf_07_the_builder_says_all_that_the_file_can() {
    let mesh = Mesh::builder()
        .text(TEXT)
        .unknown_services(UnknownServices::Dns)
        .default_timeout(None)
        .default_retry(RetryPolicy::new(RetryOn::RESET))
        .default_connect_timeout(Duration::from_secs(1))
        .default_load_balancer(LoadBalancer::PickFirst { shuffle: true })
        .default_protocol(Protocol::Http1)
        .dns_min_ttl(Duration::from_secs(1))
        .dns_max_ttl(Duration::from_secs(2))
        .dns_timeout(Duration::from_secs(3))
        .propagators(&[Propagator::B3])
        .locality(&Place::new("eu-west-1", "eu-west-1a", ""))
        .default_tls(Tls::simple(RootCertificates::WebPki))
        .server(&Server::new("public"))
        .build()
        .await
        .unwrap();
    let lines = [
        "unknown_services: dns  # builder unknown_services",
        "timeout: 0s  # builder default_timeout",
        "- reset  # builder default_retry",
        "connect_timeout: 1s  # builder default_connect_timeout",
        "shuffle: true  # builder default_load_balancer",
        "protocol: http1  # builder default_protocol",
        "min_ttl: 1s  # builder dns_min_ttl",
        "max_ttl: 2s  # builder dns_max_ttl",
        "timeout: 3s  # builder dns_timeout",
        "- b3  # builder propagators",
        "zone: eu-west-1a  # builder locality",
        "mode: simple  # builder default_tls",
        "- name: public  # builder server",
    ];
    assert_has(&effective(&mesh), &lines);
    mesh.shutdown().await;
}

/// CF-08: a wrong variable is an error that names it, beside what is wrong with the file.
#[tokio::test]
async fn cf_08_a_wrong_variable_is_an_error() {
    let error = builder(&[("MESH_TIMEOUT", "abc")]).text("services: 5\n").build().await.unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert!(lines[0].starts_with("MESH_TIMEOUT: \"abc\" is not a duration: "), "{error}");
    assert_eq!(lines[1], "config:1:11: services: 5 is not a map of names");
    let error = builder(&[("MESH_CONFIG", "/there/is/no/such.yaml")]).build().await.unwrap_err();
    assert!(matches!(&error, BuildError::Read { .. }), "{error}");
    let error = Mesh::builder().default_connect_timeout(Duration::ZERO).build().await.unwrap_err().to_string();
    assert!(error.starts_with("builder default_connect_timeout: \"0s\" is out of range"), "{error}");
}

#[tokio::test]
async fn cf_07_the_builders_file_wins_over_that_of_the_environment() {
    let (named, given) = (Directory::new(TEXT), Directory::new(TEXT));
    let variables = [("MESH_CONFIG", named.path()), ("MESH_TIMEOUT", "2s")];
    for (builder, path) in [(builder(&variables), &named), (builder(&variables).file(&given.path), &given)] {
        let mesh = builder.build().await.unwrap();
        let origin = format!("endpoints: []  # {}:1:46", path.path());
        assert_has(&effective(&mesh), &[&origin, "timeout: 2s  # environment MESH_TIMEOUT"]);
        mesh.shutdown().await;
    }
    // A file alone is read alone.
    let mesh = Mesh::from_file(&given.path).await.unwrap();
    assert!(!effective(&mesh).contains("environment"));
    mesh.shutdown().await;
}

/// What is said beside the file holds for each version of it, and what is shown is what is in force.
#[tokio::test]
async fn cf_07_a_reload_keeps_what_is_said_beside_the_file() {
    let log = Log::start();
    let file = Directory::new(&format!("{TEXT}dns: {{ timeout: 1s }}\n"));
    let variables = [("MESH_CONFIG", file.path()), ("MESH_TIMEOUT", "2s"), ("MESH_TIMEUOT", "3s")];
    let mesh = builder(&variables).dns_min_ttl(Duration::from_secs(1)).build().await.unwrap();
    let beside = ["timeout: 2s  # environment MESH_TIMEOUT", "min_ttl: 1s  # builder dns_min_ttl"];
    let shown = |value: &str| format!("timeout: {value}  # {}:2:17", file.path());
    assert_has(&effective(&mesh), &[&beside[..], &[&shown("1s")]].concat());

    file.write(&mesh, &format!("{TEXT}dns: {{ timeout: 4s }}\n"), Some(2)).await;
    assert_has(&effective(&mesh), &[&beside[..], &[&shown("4s")]].concat());

    // Neither what cannot be read nor what cannot be compiled is in force.
    file.write(&mesh, "services: 5\n", None).await;
    assert_has(&effective(&mesh), &[&shown("4s")]);
    let custom = "defaults: { load_balancer: { policy: custom, name: unheard-of } }";
    file.write(&mesh, &format!("{TEXT}dns: {{ timeout: 5s }}\n"), Some(3)).await;
    let refused = mesh.config_status();
    file.write(&mesh, &format!("{TEXT}dns: {{ timeout: 6s }}\n{custom}\n"), None).await;
    assert!(refused.borrow().error.as_ref().is_some_and(|error| error.to_string().contains("unheard-of")));
    assert_has(&effective(&mesh), &[&shown("5s")]);

    // Each version that could be read has its warning once, and the mesh its one line.
    let warnings = log.of(Level::WARN).iter().filter(|line| line.contains("did you mean `MESH_TIMEOUT`?")).count();
    assert_eq!((warnings, log.of(Level::INFO).len()), (4, 1));
    mesh.shutdown().await;
}

#[tokio::test]
async fn settings_beside_a_configuration_made_in_code_are_refused() {
    let mesh =
        builder(&[("PATH", "/bin"), ("MESH_CONFIG", "/no/such/file")]).config(Config::new()).build().await.unwrap();
    assert!(mesh.effective_config().is_none());
    mesh.shutdown().await;
    for builder in [builder(&[("MESH_TIMEOUT", "1s")]), Mesh::builder().default_timeout(Duration::from_secs(1))] {
        let error = builder.config(Config::new()).build().await.unwrap_err();
        assert!(matches!(error, BuildError::SettingsBesideConfig), "{error}");
        assert!(error.to_string().contains("Config::settings"), "{error}");
    }
}

/// What cannot be read as a file does not block, and does not end the following.
#[cfg(unix)]
#[tokio::test]
async fn cf_05_what_is_no_regular_file_is_an_error_until_it_is_one() {
    type Make = fn(&std::path::Path);
    let cases: [(Make, &str); 4] = [
        (
            |path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
            "this is a FIFO; ",
        ),
        (|path| fs::create_dir(path).unwrap(), "this is a directory; "),
        (|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(), "this is a device; "),
        (|path| fs::File::create(path).unwrap().set_len(1 << 33).unwrap(), "8589934592 bytes are too many: "),
    ];
    let file = Directory::new(TEXT);
    let mesh = Mesh::from_file(&file.path).await.unwrap();
    let mut status = mesh.config_status();
    for (number, (make, text)) in cases.into_iter().enumerate() {
        let odd = file.path.with_extension("odd");
        make(&odd);
        let error = builder(&[]).file(&odd).build().await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: {text}", odd.display())), "{error}");
        fs::remove_file(&file.path).unwrap();
        fs::rename(&odd, &file.path).unwrap();
        let refused = status.wait_for(|status| {
            status
                .error
                .as_ref()
                .is_some_and(|error| error.to_string().starts_with(&format!("{}: {text}", file.path())))
        });
        watched(refused).await.unwrap();
        fs::rename(&file.path, file.path.with_extension(number.to_string())).unwrap();
        let good = format!("{TEXT}dns: {{ timeout: {}s }}\n", number + 1);
        watched(file.write(&mesh, &good, Some(number as u64 + 2))).await;
    }
}

/// A file that asks for what a process cannot follow is in force all the same, and says what is missing.
#[tokio::test]
async fn cf_08_what_needs_a_new_process_is_said() {
    let log = Log::start();
    let server = |name: &str, port: u16| format!("{{ name: {name}, address: '127.0.0.1:{port}', tls: disabled }}");
    let file = Directory::new(&format!("servers: [{}]\n", server("a", 0)));
    let mesh = Mesh::from_file(&file.path).await.unwrap();
    let handler = tower::service_fn(async |_: http::Request<mesh_tower::server::RequestBody>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
    });
    let serving = tokio::spawn(mesh.serve(mesh.listener("a").await.unwrap(), handler));
    let mut readiness = mesh.watch_readiness();
    watched(async { while !readiness.changed().await.unwrap().is_ready() {} }).await;
    watched(file.write(&mesh, &format!("servers: [{}, {}]\n", server("a", 1), server("b", 0)), Some(2))).await;
    let warnings = log.of(Level::WARN);
    let [moved, unserved] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(moved.contains("other addresses need a new process") && moved.contains("server=\"a\""), "{moved}");
    assert!(unserved.contains("nobody serves a server that is new") && unserved.contains("server=\"b\""), "{unserved}");
    drop(mesh);
    serving.abort();
}
