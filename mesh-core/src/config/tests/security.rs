//! Identities, TLS, servers and the admin listener: from the file, and from a program.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::super::{File, Reader, parse};
use super::{bad, good, only_problem};
use crate::identity::{SanKind, SanMatch, SanPattern, SpiffeId, TrustDomain};
use crate::model::{
    AccessLog, Admin, Backend, Config, Drain, ForwardedIdentity, Identity, IdentityFiles, IdentityFrom, Listen,
    Pattern, RootCertificates, Server, ServerLimits, ServerTls, Tls, TlsMode, TrustFile,
};

const CUSTOM: &str = "identity: { source: custom }\n";

fn identity(written: &str) -> Identity {
    let config = good(&format!("unknown_services: dns\nidentity: {written}\n"));
    Identity::clone(config.settings.identity.as_deref().unwrap())
}

fn backend(config: &Config) -> &Backend {
    config.backends.values().next().unwrap()
}

/// The TLS of a backend with these fields.
fn tls(fields: &str, rest: &str) -> Option<Tls> {
    let text = format!("services: {{ s: {{ backends: {{ b: {{ dns: b:80{fields} }} }} }} }}\n{rest}");
    backend(&good(&text)).tls.clone()
}

fn part(kind: Option<SanKind>, pattern: SanPattern) -> SanMatch {
    SanMatch { kind, pattern }
}

#[test]
fn reads_identities() {
    let files = |trust| IdentityFiles::new("/run/tls.crt", "/etc/mesh/tls/tls.key", trust);
    let pem = TrustFile::Pem("/etc/mesh/ca.crt".into());
    let least = identity("{ certificate: /run/tls.crt, key: tls/tls.key, trust_bundle: ca.crt }");
    assert_eq!(least, Identity::new(IdentityFrom::Files(files(pem))));

    let all = identity(
        "{ certificate: /run/tls.crt, key: tls/tls.key, spiffe_bundle_map: map.json, refresh_interval: 10ms, \
         trust_domain_aliases: [old.example, older], trust_bundles: { other.example: other.crt, a: /b }, \
         revocation_list: crl.pem, allow_undetermined_revocation: true, startup_timeout: 1ms }",
    );
    let domain = |name| TrustDomain::new(name).unwrap();
    let mut expected = files(TrustFile::SpiffeBundleMap("/etc/mesh/map.json".into()));
    expected.refresh_interval = Duration::from_millis(10);
    let mut expected = Identity::new(IdentityFrom::Files(expected));
    expected.trust_domain_aliases = vec![domain("old.example"), domain("older")];
    expected.federated = [(domain("other.example"), "/etc/mesh/other.crt".into()), (domain("a"), "/b".into())].into();
    expected.revocation_list = Some("/etc/mesh/crl.pem".into());
    expected.allow_undetermined_revocation = true;
    expected.startup_timeout = Duration::from_millis(1);
    assert_eq!(all, expected);

    let api = |endpoint: Option<&str>, id: Option<&str>| {
        let spiffe_id = id.map(|id| SpiffeId::new(id).unwrap());
        Identity::new(IdentityFrom::WorkloadApi { endpoint: endpoint.map(Into::into), spiffe_id })
    };
    assert_eq!(identity("{ workload_api: {} }"), api(None, None));
    let socket = "unix:/run/spire/agent.sock";
    assert_eq!(
        identity(&format!("{{ workload_api: {{ endpoint: {socket}, spiffe_id: spiffe://a/b }} }}")),
        api(Some(socket), Some("spiffe://a/b"))
    );
    assert_eq!(
        identity("{ workload_api: { endpoint: 'tcp://127.0.0.1:8081' } }"),
        api(Some("tcp://127.0.0.1:8081"), None)
    );
    assert_eq!(identity("{ source: custom }"), Identity::new(IdentityFrom::Custom));
}

#[test]
fn reads_who_a_peer_must_be() {
    let found = tls(
        ", tls: { mode: mutual, identities: [spiffe://cluster.local/ns/a/sa/b, spiffe://cluster.local/B, \
         { uri: 'urn:a:b' }, { dns: Shop.example. }, { exact: 'a b' }, { exact: a@b.example, kind: email }, \
         { exact: 'FD00::0:1', kind: ip }, { exact: 'spiffe://a/b', kind: uri }, { exact: a.b, kind: dns }, \
         { prefix: spiffe://a/ }, { suffix: /b, kind: uri }, { contains: c, kind: dns }, \
         { regex: 'spiffe://[a-z]+/x', kind: uri }] }",
        CUSTOM,
    );
    let regex = SanPattern::Regex(Pattern::new("spiffe://[a-z]+/x").unwrap());
    let expected = vec![
        SanMatch::uri("spiffe://cluster.local/ns/a/sa/b"),
        // As it is compared, byte by byte.
        SanMatch::uri("spiffe://cluster.local/B"),
        SanMatch::uri("urn:a:b"),
        SanMatch::dns("Shop.example."),
        SanMatch::new(SanPattern::Exact("a b".into())),
        part(Some(SanKind::Email), SanPattern::Exact("a@b.example".into())),
        part(Some(SanKind::Ip), SanPattern::Exact("fd00::1".into())),
        SanMatch::uri("spiffe://a/b"),
        SanMatch::dns("a.b"),
        SanMatch::new(SanPattern::Prefix("spiffe://a/".into())),
        part(Some(SanKind::Uri), SanPattern::Suffix("/b".into())),
        part(Some(SanKind::Dns), SanPattern::Contains("c".into())),
        part(Some(SanKind::Uri), regex),
    ];
    assert_eq!(found, Some(Tls::mutual(expected)));
}

#[test]
fn reads_every_mode_of_tls() {
    let file = || RootCertificates::PemFile("/etc/mesh/ca.crt".into());
    let ids = vec![SanMatch::dns("b.example")];
    let fields = "server_name: b.example, ca_certificates: ca.crt, identities: [{ dns: b.example }]";
    for (mode, expected) in [("simple", TlsMode::Simple), ("mutual", TlsMode::Mutual)] {
        let read = tls(&format!(", tls: {{ mode: {mode}, {fields} }}"), CUSTOM).unwrap();
        let name = read.server_name.as_deref();
        assert_eq!(
            (read.mode, name, read.roots, read.identities),
            (expected, Some("b.example"), Some(file()), ids.clone())
        );
        let least = tls(&format!(", tls: {{ mode: {mode} }}"), CUSTOM).unwrap();
        let roots = (expected == TlsMode::Simple).then_some(RootCertificates::WebPki);
        assert_eq!((least.mode, least.server_name, least.roots, least.identities), (expected, None, roots, Vec::new()));
    }
    let config = good(
        "services: { s: { backends: { b: { localities: [{ endpoints: [10.0.0.1:80, { address: 10.0.0.2:80, mesh: true }] \
         }], tls: { mode: auto } } } } }\nidentity: { source: custom }\n",
    );
    assert_eq!(backend(&config).tls.as_ref().unwrap().mode, TlsMode::Auto);
    assert_eq!(backend(&config).endpoints.iter().map(|endpoint| endpoint.mesh).collect::<Vec<_>>(), [false, true]);
}

/// With an identity clients speak mutual TLS and servers are strict, without one both speak plaintext: unless somebody says
/// otherwise.
#[test]
fn an_identity_is_used_where_nothing_is_said() {
    let mutual = Some(Tls::mutual(Vec::new()));
    let simple = Some(Tls::simple(RootCertificates::WebPki));
    let disabled = ", tls: { mode: disabled }";
    let defaults = |mode: &str| format!("{CUSTOM}defaults: {{ tls: {{ mode: {mode} }} }}\n");
    for (fields, rest, expected) in [
        ("", String::new(), &None),
        ("", CUSTOM.to_owned(), &mutual),
        (disabled, CUSTOM.to_owned(), &None),
        (", tls: { mode: simple }", CUSTOM.to_owned(), &simple),
        ("", defaults("disabled"), &None),
        ("", defaults("simple"), &simple),
        (disabled, defaults("simple"), &None),
        (", tls: { mode: mutual }", defaults("disabled"), &mutual),
        ("", "defaults: { tls: { mode: simple } }\n".to_owned(), &simple),
    ] {
        assert_eq!(&tls(fields, &rest), expected, "{fields} {rest}");
    }
    let of_mesh = |text: &str| good(&format!("unknown_services: dns\n{text}")).settings.defaults.tls.clone();
    assert_eq!(of_mesh(""), None);
    assert_eq!(of_mesh(CUSTOM), mutual);
    assert_eq!(of_mesh(&defaults("disabled")), None);

    let server = |text: &str| good(&format!("servers: [{text}]\n")).servers["a"].tls;
    assert_eq!(server("{ name: a }"), Some(ServerTls::Disabled));
    let server = |text: &str| good(&format!("servers: [{text}]\n{CUSTOM}")).servers["a"].tls;
    for (text, expected) in [
        ("{ name: a }", ServerTls::Strict),
        ("{ name: a, tls: strict }", ServerTls::Strict),
        ("{ name: a, tls: { mode: permissive } }", ServerTls::Permissive),
        ("{ name: a, tls: disabled }", ServerTls::Disabled),
    ] {
        assert_eq!(server(text), Some(expected), "{text}");
    }
}

/// A server, none of whose fields has its default.
fn everything() -> Server {
    let socket = |address: &str| Listen::Socket(address.parse::<SocketAddr>().unwrap());
    let mut server = Server::new("public");
    server.addresses = vec![
        socket("0.0.0.0:8443"),
        socket("[::1]:9443"),
        Listen::Unix(Path::new("/etc/mesh/run/a.sock").into()),
        Listen::Unix(Path::new("/run/b.sock").into()),
        Listen::Inherited(1),
    ];
    server.tls = Some(ServerTls::Permissive);
    server.identities = vec![SanMatch::uri("spiffe://a/b"), SanMatch::dns("c.example")];
    server.forwarded_identity = ForwardedIdentity {
        trusted_proxies: vec![SanMatch::uri("spiffe://a/c")],
        headers: [HeaderName::from_static("x-remote-user"), HeaderName::from_static("team_id")].into(),
        write: true,
    };
    let millis = Duration::from_millis;
    server.limits = ServerLimits {
        max_connections: None,
        max_connections_per_address: Some(2),
        max_header_bytes: 8_388_608,
        max_headers: 3,
        handshake_timeout: millis(1),
        detection_timeout: millis(2),
        header_timeout: millis(3),
        first_request_timeout: millis(4),
        idle_timeout: None,
        keepalive_time: Some(millis(1000)),
        keepalive_timeout: millis(8),
        max_connection_age: Some(millis(5)),
        max_connection_age_grace: Some(millis(0)),
        max_concurrent_streams: 4,
        request_timeout: Some(millis(6)),
        body_timeout: None,
        send_timeout: Some(millis(7)),
        max_body_bytes: Some(1 << 40),
        max_message_bytes: None,
        max_pending_resets: 5,
        max_local_resets: 6,
        max_control_frames: 7,
    };
    server.drain = Drain { delay: millis(0), grace: millis(7) };
    server.access_log = AccessLog::Json;
    server.propagate_deadline = true;
    server
}

#[test]
fn reads_servers() {
    let config = good(
        r#"
identity: { source: custom }
servers:
  - name: public
    addresses: ["0.0.0.0:8443", "[::1]:9443", unix:run/a.sock, unix:/run/b.sock, fd:1]
    tls: { mode: permissive, identities: [spiffe://a/b, { dns: c.example }] }
    forwarded_identity: { trusted_proxies: [spiffe://a/c], headers: [X-Remote-User, team_id], write: true }
    limits:
      max_connections: none
      max_connections_per_address: 2
      max_header_bytes: 8388608
      max_headers: 3
      handshake_timeout: 1ms
      detection_timeout: 2ms
      header_timeout: 3ms
      first_request_timeout: 4ms
      idle_timeout: none
      keepalive_time: 1s
      keepalive_timeout: 8ms
      max_connection_age: 5ms
      max_connection_age_grace: 0s
      max_concurrent_streams: 4
      request_timeout: 6ms
      body_timeout: none
      send_timeout: 7ms
      max_body_bytes: 1099511627776
      max_message_bytes: none
      max_pending_resets: 5
      max_local_resets: 6
      max_control_frames: 7
    drain: { delay: 0s, grace: 7ms }
    access_log: json
    propagate_deadline: true
  - { name: plain, address: "127.0.0.1:0", tls: disabled, limits: {}, drain: {}, access_log: text, forwarded_identity: {} }
  - { name: own, access_log: off }
admin: { address: "[::1]:15000", allow_drain: true, hosts: [metrics.shop.svc] }
"#,
    );
    assert_eq!(*config.servers["public"], everything());
    let mut plain = Server::new("plain");
    plain.addresses = vec![Listen::Socket("127.0.0.1:0".parse().unwrap())];
    plain.tls = Some(ServerTls::Disabled);
    plain.access_log = AccessLog::Text;
    assert_eq!(*config.servers["plain"], plain);
    // What is left out has the defaults of the model: they are declared in both places.
    let mut own = Server::new("own");
    own.tls = Some(ServerTls::Strict);
    assert_eq!(*config.servers["own"], own);
    assert_eq!(config.servers.len(), 3);
    let mut admin = Admin::new("[::1]:15000".parse().unwrap());
    admin.allow_drain = true;
    admin.hosts = vec!["metrics.shop.svc".into()];
    assert_eq!(config.settings.admin, Some(admin));
    // A process may serve and call nobody.
    assert!(config.virtual_hosts.is_empty());
}

/// AD-07: an admin listener that others reach is asked for by name.
#[test]
fn ad_07_the_admin_listener_is_on_loopback_unless_told() {
    let admin = |fields: &str| format!("unknown_services: dns\nadmin: {{ {fields} }}\n");
    for address in ["127.0.0.1:0", "127.9.9.9:15000", "'[::1]:15000'", "'[::ffff:127.0.0.1]:15000'"] {
        assert!(!good(&admin(&format!("address: {address}"))).settings.admin.as_ref().unwrap().allow_remote);
    }
    for address in ["0.0.0.0:15000", "10.0.0.1:15000", "'[::]:15000'", "'[fe80::1]:15000'", "'[::ffff:10.0.0.1]:15000'"]
    {
        let problem = only_problem(&admin(&format!("address: {address}")));
        assert!(problem.message.contains("is no loopback address") && problem.path == "admin.address", "{problem}");
        assert!(
            good(&admin(&format!("address: {address}, allow_remote: true")))
                .settings
                .admin
                .as_ref()
                .unwrap()
                .allow_remote
        );
    }
}

/// Two sockets cannot listen on one address: this is known before one of them fails at the start.
#[test]
fn an_address_is_listened_on_once() {
    let servers = |first: &str, second: &str| {
        format!("servers: [{{ name: a, address: '{first}' }}, {{ name: b, address: '{second}' }}]\n")
    };
    for (first, second, collides) in [
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("0.0.0.0:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "0.0.0.0:80", true),
        ("[::]:80", "0.0.0.0:80", true),
        ("0.0.0.0:80", "[::]:80", true),
        ("[::]:80", "10.0.0.1:80", true),
        ("[::1]:80", "[::]:80", true),
        ("[::1]:80", "0.0.0.0:80", false),
        ("0.0.0.0:80", "[::1]:80", false),
        ("[::1]:80", "127.0.0.1:80", false),
        ("unix:/run/a", "unix:/run/a", true),
        ("unix:a", "unix:/etc/mesh/a", true),
        ("unix:a", "unix:b", false),
        ("fd:0", "fd:0", true),
        ("fd:0", "fd:1", false),
    ] {
        let text = servers(first, second);
        if !collides {
            assert_eq!(good(&text).servers.len(), 2, "{text}");
            continue;
        }
        let problem = only_problem(&text);
        assert!(problem.path == "servers[1].address" && problem.message.contains("the server `a`"), "{problem}");
    }
    let twice = only_problem("servers: [{ name: a, addresses: ['127.0.0.1:80', '127.0.0.1:80'] }]");
    assert!(twice.message.contains("127.0.0.1:80 is already an address of the server `a`"), "{twice}");
    let admin = only_problem("servers: [{ name: a, address: '0.0.0.0:80' }]\nadmin: { address: '127.0.0.1:80' }\n");
    assert!(admin.message.contains("beside 127.0.0.1:80 of the admin listener"), "{admin}");
}

/// Whoever writes the key itself where its path belongs does not find it in a log.
#[test]
fn a_key_in_the_file_is_refused_and_not_shown() {
    for key in [
        "\"-----BEGIN PRIVATE KEY-----\\nc2VjcmV0\\n-----END PRIVATE KEY-----\"",
        "'-----BEGIN PRIVATE KEY-----c2VjcmV0'",
        "|\n    c2VjcmV0\n    c2VjcmV0\n",
    ] {
        let text = format!("unknown_services: dns\nidentity:\n  certificate: c\n  trust_bundle: t\n  key: {key}\n");
        let problems = bad(&text);
        let shown = serde_json::to_string(&problems).unwrap();
        assert!(problems.len() == 1 && problems[0].path == "identity.key" && !shown.contains("c2VjcmV0"), "{shown}");
    }
}

/// What is not said of an identity is not said again of all that needs one.
#[test]
fn a_wrong_identity_is_one_problem() {
    let rest = "servers: [{ name: a, tls: strict }]\nservices: { s: { backends: { b: { dns: b:80, tls: { mode: mutual } } } } }\n";
    for identity in ["identity: 5", "identity: { source: costum }", "identiy: { source: custom }"] {
        only_problem(&format!("{identity}\n{rest}"));
    }
    let needs = bad(rest);
    let needs: Vec<_> = needs.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(needs, ["servers[0].tls.mode", "services.s.backends.b.tls.mode"]);
}

/// CF-07: what follows from an identity is shown, and is the same when it is read again.
#[test]
fn cf_07_what_follows_from_an_identity_is_shown() {
    let text = "services: { s: { backends: { b: { dns: b:80 }, c: { dns: c:80, tls: { mode: simple } } }, routes: [{ backends: \
                [{ name: b }, { name: c }] }] } }\nservers: [{ name: a }, { name: b, tls: disabled, limits: { max_headers: 5 } }]\n\
                admin: { address: '127.0.0.1:1' }\n";
    let shown = |rest: &str| {
        let text = format!("{text}{rest}");
        let file = File { text: text.as_bytes(), name: "f", directory: Path::new("/etc/mesh") };
        let parsed = Reader::new().read(Some(file)).unwrap();
        let again = parse(parsed.effective.to_string().as_bytes(), "again", Path::new("/etc/mesh")).unwrap();
        assert_eq!(again, parsed.config);
        parsed.effective.settings()
    };
    let identity = "identity: { certificate: c.pem, key: k.pem, trust_bundle: t.pem }\n";
    let (with, without) = (shown(identity), shown(""));
    let value = |settings: &[super::super::Setting], path: &str| {
        let setting = settings.iter().find(|setting| setting.path == path);
        setting.map(|setting| format!("{} {}", setting.value, setting.origin))
    };
    let cases = [
        ("defaults.tls.mode", Some("mutual default"), None),
        ("services.s.backends.b.tls.mode", Some("mutual default"), None),
        ("services.s.backends.c.tls.mode", Some("simple f:1:77"), Some("simple f:1:77")),
        ("servers[0].tls", Some("strict default"), Some("disabled default")),
        ("servers[1].tls", Some("disabled f:2:40"), Some("disabled f:2:40")),
        ("servers[0].limits.max_headers", Some("100 default"), Some("100 default")),
        ("servers[1].limits.max_headers", Some("5 f:2:73"), Some("5 f:2:73")),
        ("servers[0].drain.delay", Some("5s default"), Some("5s default")),
        ("servers[0].access_log", Some("off default"), Some("off default")),
        ("admin.allow_remote", Some("false default"), Some("false default")),
        ("identity.key", Some("k.pem f:4:38"), None),
        ("identity.refresh_interval", Some("1s default"), None),
        ("identity.startup_timeout", Some("10s default"), None),
    ];
    for (path, expected, plain) in cases {
        assert_eq!(value(&with, path).as_deref(), expected, "{path}");
        assert_eq!(value(&without, path).as_deref(), plain, "{path}");
    }
}

const FILE: &str = "services: { s: { backends: { b: { dns: b:80 } } } }\nservers: [{ name: a }, { name: public }]\n";

fn with(reader: &Reader) -> Config {
    let file = File { text: FILE.as_bytes(), name: "mesh.yaml", directory: Path::new("/etc/mesh") };
    reader.read(Some(file)).unwrap().config
}

/// What a program says in the model's words comes out as it went in.
#[test]
fn a_program_says_who_it_is() {
    let mut files = IdentityFiles::new("a.crt", "/run/a.key", TrustFile::Pem("ca.crt".into()));
    files.refresh_interval = Duration::from_secs(5);
    let map = IdentityFiles::new("a.crt", "a.key", TrustFile::SpiffeBundleMap("map.json".into()));
    let mut all = Identity::new(IdentityFrom::Files(files));
    all.trust_domain_aliases = vec![TrustDomain::new("old").unwrap()];
    all.federated = [(TrustDomain::new("other").unwrap(), "other.crt".into())].into();
    all.revocation_list = Some("crl".into());
    all.allow_undetermined_revocation = true;
    all.startup_timeout = Duration::from_secs(1);
    let spiffe_id = Some(SpiffeId::new("spiffe://a/b").unwrap());
    let socket = Some("unix:/run/a.sock".into());
    for identity in [
        all,
        Identity::new(IdentityFrom::Files(map)),
        Identity::new(IdentityFrom::WorkloadApi { endpoint: socket, spiffe_id }),
        Identity::new(IdentityFrom::WorkloadApi { endpoint: None, spiffe_id: None }),
        Identity::new(IdentityFrom::Custom),
    ] {
        let config = with(&Reader::new().with_identity(&identity));
        assert_eq!(config.settings.identity.as_deref(), Some(&identity));
        assert_eq!(backend(&config).tls, Some(Tls::mutual(Vec::new())));
        assert_eq!(config.servers["a"].tls, Some(ServerTls::Strict));
    }
}

#[test]
fn a_program_says_how_it_speaks() {
    let reader = Reader::new().with_identity(&Identity::new(IdentityFrom::Custom));
    let regex = SanPattern::Regex(Pattern::new("a+").unwrap());
    let mut tls = Tls::mutual(vec![
        SanMatch::uri("spiffe://a/b"),
        SanMatch::dns("a.b"),
        SanMatch::new(SanPattern::Exact("5".into())),
        part(Some(SanKind::Email), SanPattern::Exact("a@b".into())),
        part(Some(SanKind::Ip), SanPattern::Exact("::1".into())),
        part(Some(SanKind::Uri), SanPattern::Prefix("a".into())),
        part(None, SanPattern::Suffix("a".into())),
        part(Some(SanKind::Dns), SanPattern::Contains("a".into())),
        part(None, regex),
    ]);
    tls.server_name = Some("a.b".into());
    tls.roots = Some(RootCertificates::PemFile("ca.crt".into()));
    for tls in [Some(tls), Some(Tls::mutual(Vec::new())), Some(Tls::simple(RootCertificates::WebPki)), None] {
        let config = with(&reader.clone().with_default_tls(tls.as_ref()));
        assert_eq!((&config.settings.defaults.tls, &backend(&config).tls), (&tls, &tls));
    }

    let mut server = everything();
    // A relative socket of a program is where the program runs.
    server.addresses[2] = Listen::Unix(Path::new("run/a.sock").into());
    let mut inherits = Server::new("public");
    inherits.identities = vec![SanMatch::dns("a.b")];
    let config = with(&reader.clone().with_server(&inherits).with_server(&Server::new("new")).with_server(&server));
    assert_eq!(*config.servers["public"], server);
    let names: Vec<_> = config.servers.keys().map(|name| &**name).collect();
    assert_eq!(names, ["a", "new", "public"]);
    let config = with(&reader.clone().with_server(&inherits));
    inherits.tls = Some(ServerTls::Strict);
    assert_eq!(*config.servers["public"], inherits);
    let alone = Reader::new().with_server(&Server::new("new")).read(None).unwrap().config;
    assert_eq!(alone.servers.keys().collect::<Vec<_>>(), [&Arc::from("new")]);

    let mut admin = Admin::new("0.0.0.0:15000".parse().unwrap());
    let refused = reader.clone().with_admin(&admin).read(None).unwrap_err().to_string();
    assert!(refused.starts_with("builder admin: 0.0.0.0:15000 is no loopback address"), "{refused}");
    (admin.allow_remote, admin.allow_drain) = (true, true);
    admin.hosts = vec!["a.example".into(), "b".into()];
    assert_eq!(with(&reader.with_admin(&admin)).settings.admin, Some(admin));

    let mut auto = Tls::mutual(Vec::new());
    auto.mode = TlsMode::Auto;
    let refused = Reader::new().with_default_tls(Some(&auto)).read(None).unwrap_err().to_string();
    assert!(refused.starts_with("builder default_tls: `auto` is no default"), "{refused}");
}
