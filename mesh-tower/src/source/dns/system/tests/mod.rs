mod server;

use server::{Fault, Server, Zone};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

fn loaded(server: &Server, search: &[&str], hosts: &str, timeout: Duration) -> Arc<Loaded> {
    let mut options = ResolverOpts::default();
    options.ndots = 2;
    options.attempts = 0;
    let mut read = Hosts::default();
    read.read_hosts_conf(hosts.as_bytes()).unwrap();
    let files = Files { resolv_conf: "/nowhere/resolv.conf".into(), hosts: "/nowhere/hosts".into() };
    Arc::new(Loaded {
        content: files.read(),
        timeout,
        hosts: read,
        resolver: resolver(server.configuration(search), options, timeout),
    })
}

fn host(host: &str) -> DnsName {
    DnsName::Host { host: host.into(), port: 50051 }
}

fn service(name: &str) -> DnsName {
    DnsName::Service(name.into())
}

async fn resolve(zone: Zone, name: &DnsName) -> Result<Answer, ResolveError> {
    let server = Server::start(zone).await;
    loaded(&server, &[], "", TIMEOUT).resolve(name).await
}

fn answer(endpoints: &[&str], ttl: u64) -> Answer {
    Answer::new(endpoints.iter().map(|address| address.parse().unwrap()).collect(), Duration::from_secs(ttl))
}

#[tokio::test]
async fn both_families_are_asked_and_ipv6_comes_first() {
    let zone = Zone::default()
        .address("greeter.example.", 60, "192.0.2.1")
        .address("greeter.example.", 30, "2001:db8::1")
        .address("greeter.example.", 60, "2001:db8::2");
    let server = Server::start(zone).await;
    let found = loaded(&server, &[], "", TIMEOUT).resolve(&host("greeter.example.")).await.unwrap();
    let wanted = ["[2001:db8::1]:50051", "[2001:db8::2]:50051", "192.0.2.1:50051"];
    assert_eq!(found, answer(&wanted, 30), "the shortest TTL is that of the answer");
    assert_eq!(server.queries(), ["greeter.example. A UDP", "greeter.example. AAAA UDP"]);
}

#[tokio::test]
async fn one_family_is_enough_and_an_alias_bounds_the_ttl() {
    let zone = Zone::default().alias("greeter.example.", 5, "lb.example.").address("lb.example.", 300, "192.0.2.1");
    assert_eq!(resolve(zone, &host("greeter.example.")).await.unwrap(), answer(&["192.0.2.1:50051"], 5));
}

/// No cache is in between: each look-up asks, and the TTL is the server's.
#[tokio::test]
async fn nothing_is_cached() {
    let server = Server::start(Zone::default().address("greeter.example.", 3_600, "192.0.2.1")).await;
    let resolver = loaded(&server, &[], "", TIMEOUT);
    for _ in 0..3 {
        for name in ["greeter.example.", "missing.example."] {
            let before = server.asked(name);
            let found = resolver.resolve(&host(name)).await.ok();
            assert_eq!(found, (name == "greeter.example.").then(|| answer(&["192.0.2.1:50051"], 3_600)));
            assert!(server.asked(name) > before, "{name}");
        }
    }
}

#[tokio::test]
async fn search_domains_complete_a_short_name_and_a_full_one_is_left_alone() {
    let zone =
        Zone::default().address("greeter.shop.svc.", 30, "192.0.2.1").address("www.example.com.", 30, "192.0.2.2");
    let server = Server::start(zone).await;
    let resolver = loaded(&server, &["default.svc.", "shop.svc."], "", TIMEOUT);
    assert_eq!(resolver.resolve(&host("greeter")).await.unwrap(), answer(&["192.0.2.1:50051"], 30));
    let asked = server.queries();
    assert!(asked.contains(&"greeter.default.svc. A UDP".to_owned()), "{asked:?}");
    assert_eq!(resolver.resolve(&host("www.example.com")).await.unwrap(), answer(&["192.0.2.2:50051"], 30));
    assert_eq!(server.queries().len() - asked.len(), 2, "a name of `ndots` dots is asked for as it is");
    assert!(matches!(resolver.resolve(&host("greeter.")).await, Err(ResolveError::NoSuchName { .. })));
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_is_enough_for_both_families() {
    let zone = Zone::default().address("greeter.", 30, "192.0.2.1").fault("box.", Fault::Silence);
    let server = Server::start(zone).await;
    let hosts = "127.0.1.1 box # this machine\n::2 six\n127.0.0.2 six Greeter\n";
    let resolver = loaded(&server, &[], hosts, TIMEOUT);
    for (name, wanted) in [
        ("box", &["127.0.1.1:50051"][..]),
        ("six", &["[::2]:50051", "127.0.0.2:50051"]),
        ("GREETER", &["127.0.0.2:50051"]),
    ] {
        assert_eq!(resolver.resolve(&host(name)).await.unwrap(), answer(wanted, 0), "{name}");
    }
    assert_eq!(server.queries(), [""; 0]);
}

#[tokio::test]
async fn failures_say_what_is_wrong() {
    let zone = Zone::default().empty("empty.example.").fault("broken.example.", Fault::ServerFailure).service(
        "_none._tcp.example.",
        30,
        0,
        0,
        ".",
    );
    let server = Server::start(zone).await;
    let resolver = loaded(&server, &[], "", TIMEOUT);
    let long = "a".repeat(64);
    for (name, wanted) in [
        (host("missing.example."), "missing.example.:50051 does not exist in DNS"),
        (host("empty.example."), "empty.example.:50051 has no address in DNS"),
        (host("broken.example."), "broken.example.:50051: DNS error: error response: Server Failure"),
        (host(&long), "is not a name that DNS could know: "),
        (host("a..b"), "is not a name that DNS could know: "),
        (service("_missing._tcp.example."), "_missing._tcp.example. (SRV) does not exist in DNS"),
        (service("empty.example."), "empty.example. (SRV) has no usable service record in DNS"),
        (service("_none._tcp.example."), "_none._tcp.example. (SRV) has no usable service record in DNS"),
    ] {
        let error = resolver.resolve(&name).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// The server's silence ends before the whole look-up would be given up.
#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = Server::start(Zone::default().fault("greeter.example.", Fault::Silence)).await;
    let resolver = loaded(&server, &[], "", Duration::from_millis(300));
    let error = resolver.resolve(&host("greeter.example.")).await.unwrap_err();
    assert_eq!(error.to_string(), "greeter.example.:50051: request timed out");
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let zone =
        (1..=200).fold(Zone::default(), |zone, last| zone.address("greeter.example.", 30, &format!("192.0.2.{last}")));
    let server = Server::start(zone.fault("greeter.example.", Fault::Truncation)).await;
    let found = loaded(&server, &[], "", TIMEOUT).resolve(&host("greeter.example.")).await.unwrap();
    assert_eq!(found.endpoints.len(), 200);
    assert!(server.queries().contains(&"greeter.example. A TCP".to_owned()), "{:?}", server.queries());
}

#[tokio::test]
async fn a_service_record_leads_to_hosts_and_ports_of_the_lowest_priority() {
    let zone = Zone::default()
        .service("_grpc._tcp.example.", 60, 20, 1, "spare.example.")
        .service("_grpc._tcp.example.", 60, 10, 50_002, "b.example.")
        .service("_grpc._tcp.example.", 60, 10, 50_001, "a.example.")
        .service("_grpc._tcp.example.", 60, 10, 50_003, "gone.example.")
        .address("a.example.", 40, "192.0.2.1")
        .address("b.example.", 50, "192.0.2.2")
        .address("b.example.", 50, "2001:db8::2");
    let server = Server::start(zone).await;
    let found = loaded(&server, &[], "", TIMEOUT).resolve(&service("_grpc._tcp.example.")).await.unwrap();
    let wanted = ["[2001:db8::2]:50002", "192.0.2.2:50002", "192.0.2.1:50001"];
    assert_eq!(found, answer(&wanted, 40), "a target that does not exist is left out");
    assert!(!server.queries().iter().any(|query| query.starts_with("spare")), "{:?}", server.queries());
}

#[tokio::test]
async fn addresses_that_come_with_a_service_record_are_not_asked_for() {
    let zone = Zone::default()
        .service("_grpc._tcp.example.", 60, 0, 50_001, "a.example.")
        .enclose("_grpc._tcp.example.", "a.example.", 20, "192.0.2.1")
        .enclose("_grpc._tcp.example.", "b.example.", 1, "192.0.2.9");
    let server = Server::start(zone).await;
    let found = loaded(&server, &[], "", TIMEOUT).resolve(&service("_grpc._tcp.example.")).await.unwrap();
    assert_eq!(found, answer(&["192.0.2.1:50001"], 20));
    assert_eq!(server.queries(), ["_grpc._tcp.example. SRV UDP"]);
}

#[tokio::test]
async fn a_target_that_cannot_be_looked_up_makes_the_answer_short_lived() {
    let zone = |zone: Zone| {
        zone.service("_grpc._tcp.example.", 60, 0, 1, "broken.example.").fault("broken.example.", Fault::ServerFailure)
    };
    let some = zone(Zone::default()).service("_grpc._tcp.example.", 60, 0, 2, "a.example.").address(
        "a.example.",
        60,
        "192.0.2.1",
    );
    let name = service("_grpc._tcp.example.");
    assert_eq!(resolve(some, &name).await.unwrap(), answer(&["192.0.2.1:2"], 0));
    let error = resolve(zone(Zone::default()), &name).await.unwrap_err().to_string();
    assert_eq!(error, "_grpc._tcp.example. (SRV): DNS error: error response: Server Failure");
}

/// The files are read lazily, and again when they changed.
#[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
#[tokio::test]
async fn the_files_of_the_system_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files { resolv_conf: directory.path().join("resolv.conf"), hosts: directory.path().join("hosts") };
    let resolver = SystemResolver::of(files.clone());
    let resolve = |name: &str| resolver.resolve(&host(name), Duration::from_secs(1));
    // Without resolv.conf the error says so, and the hosts file still counts.
    let error = resolve("greeter.example.").await.unwrap_err();
    assert!(matches!(error, ResolveError::NoConfiguration(_)), "{error}");
    for part in [files.resolv_conf.to_str().unwrap(), "name a `nameserver` there", "No such file"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    std::fs::write(&files.hosts, "127.0.0.2 greeter\n").unwrap();
    assert_eq!(resolve("greeter").await.unwrap(), answer(&["127.0.0.2:50051"], 0));
    std::fs::write(&files.hosts, "127.0.0.3 greeter\n").unwrap();
    assert_eq!(resolve("greeter").await.unwrap(), answer(&["127.0.0.3:50051"], 0));
    // A file that names no server says so, too; once there is one it is used: this name it answers by itself.
    std::fs::write(&files.resolv_conf, "search example.\n").unwrap();
    let error = resolve("greeter.example.").await.unwrap_err().to_string();
    assert!(error.contains("no nameservers found"), "{error}");
    std::fs::write(&files.resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let localhost = resolve("localhost").await.unwrap();
    assert_eq!(localhost.endpoints, answer(&["[::1]:50051", "127.0.0.1:50051"], 0).endpoints);
}
