//! An unchanged generated client over a mesh.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod support;

use std::error::Error as _;
use std::time::Duration;

use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use mesh_tonic::prelude::*;
use mesh_tonic::testing::{ServiceConfig, TestMesh};
use mesh_tonic::{Channel, mesh_tower};
use mesh_tower::ErrorKind;
use support::{BOMB, Server, mesh_to, named, requests};
use tokio_stream::StreamExt;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

async fn given() -> (TestMesh, GreeterClient<Channel>, Server) {
    let server = Server::start().await;
    let mesh = mesh_to(server.address, "", "").await;
    let client = GreeterClient::new(mesh.channel("greeter").unwrap());
    (mesh, client, server)
}

#[tokio::test]
async fn all_four_kinds_of_calls_over_one_connection() {
    let (mesh, client, server) = given().await;
    let reply = client.clone().say_hello(named("ada")).await.unwrap().into_inner();
    assert_eq!((reply.message.as_str(), reply.served_by.as_str()), ("hello ada", "test"));

    let watched = client.clone().watch(HelloRequest { name: "ada".into(), count: 3 }).await.unwrap().into_inner();
    let replies: Vec<_> = watched.map(|reply| reply.unwrap().message).collect().await;
    assert_eq!(replies, ["ada 0", "ada 1", "ada 2"]);

    let sent = tokio_stream::iter(["a", "b", "c"]).map(named);
    assert_eq!(client.clone().collect(sent).await.unwrap().into_inner().message, "a+b+c");

    let (sender, stream) = requests();
    let mut chat = client.clone().chat(stream).await.unwrap().into_inner();
    for name in ["x", "y", "z"] {
        sender.try_send(named(name)).unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap().message, format!("re: {name}"), "one by one");
    }
    drop(sender);
    assert!(chat.message().await.unwrap().is_none());
    assert_eq!(server.accepts(), 1);
    mesh.end().await;
}

#[tokio::test]
async fn streams_may_be_empty_and_messages_large() {
    let (mesh, client, _server) = given().await;
    let none = client.clone().watch(named("ada")).await.unwrap().into_inner();
    assert_eq!(none.collect::<Vec<_>>().await.len(), 0);
    assert_eq!(client.clone().collect(tokio_stream::empty()).await.unwrap().into_inner().message, "");
    let large = "x".repeat(3 << 20);
    let reply = client.clone().say_hello(named(&large)).await.unwrap().into_inner();
    assert_eq!(reply.message.len(), "hello ".len() + large.len());
    mesh.end().await;
}

#[tokio::test]
async fn many_calls_at_once_by_clones() {
    let (mesh, client, server) = given().await;
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let mut client = client.clone();
            tokio::spawn(async move { client.say_hello(named(&n.to_string())).await.unwrap().into_inner().message })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), format!("hello {n}"));
    }
    assert_eq!((server.accepts(), server.calls().len()), (1, 100));
    mesh.end().await;
}

#[tokio::test]
async fn every_status_arrives_with_its_message_and_metadata() {
    for message in ["", "plain", "100 % \"quoted\"\r\n\u{1}", "Grüße, 世界 🌍"] {
        for code in 1..=16 {
            let server = Server::scripted(move |_, _| {
                let mut metadata = MetadataMap::new();
                metadata.insert("x-why", MetadataValue::from_static("because"));
                Err(Status::with_details_and_metadata(Code::from_i32(code), message, vec![0, 1, 255].into(), metadata))
            })
            .await;
            let mesh = mesh_to(server.address, "", "").await;
            let mut client = GreeterClient::new(mesh.channel("greeter").unwrap());
            let status = client.say_hello(named("ada")).await.unwrap_err();
            assert_eq!((status.code() as i32, status.message()), (code, message));
            assert_eq!(status.details(), [0, 1, 255]);
            assert_eq!(status.metadata().get("x-why").unwrap(), "because");
            assert_eq!(server.calls().len(), 1);
            mesh.end().await;
        }
    }
}

#[tokio::test]
async fn metadata_travels_both_ways() {
    let (mesh, mut client, server) = given().await;
    let mut request = Request::new(named("ada"));
    let binary = MetadataValue::from_bytes(&[0, 1, 2, 254, 255]);
    request.metadata_mut().append("x-text", "one".parse().unwrap());
    request.metadata_mut().append("x-text", "two, three".parse().unwrap());
    request.metadata_mut().insert_bin("x-data-bin", binary.clone());
    request.metadata_mut().insert("authorization", "Bearer x".parse().unwrap());
    let response = client.say_hello(request).await.unwrap();
    for metadata in [response.metadata(), &server.calls()[0]] {
        assert_eq!(metadata.get_all("x-text").iter().collect::<Vec<_>>(), ["one", "two, three"]);
        assert_eq!(metadata.get_bin("x-data-bin").unwrap(), binary);
    }
    assert_eq!(server.calls()[0].get("authorization").unwrap(), "Bearer x");
    mesh.end().await;
}

#[tokio::test]
async fn the_server_sees_who_calls_and_whom() {
    let agent = concat!("grpc-rust-mesh/", env!("CARGO_PKG_VERSION"));
    let server = Server::start().await;
    let mesh = mesh_to(server.address, "", "").await;
    let channel = mesh.channel("greeter").unwrap();
    let mut client = GreeterClient::new(channel.clone().with_user_agent("shop/1.0").unwrap());
    client.say_hello(named("ada")).await.unwrap();
    let mut client = GreeterClient::new(channel.clone());
    client.say_hello(named("ada")).await.unwrap();
    let mut request = Request::new(named("ada"));
    request.metadata_mut().insert("user-agent", "mine".parse().unwrap());
    client.say_hello(request).await.unwrap();
    let agents: Vec<_> = server.calls().iter().map(|call| call.get("user-agent").unwrap().clone()).collect();
    assert_eq!(agents[0], format!("shop/1.0 {agent}").as_str());
    assert_eq!(agents[1], agent);
    let error = channel.with_user_agent("line\nbreak").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    mesh.end().await;
}

#[tokio::test]
async fn a_deadline_is_told_and_kept() {
    let (mesh, mut client, mut server) = {
        let (mesh, client, server) = given().await;
        (mesh, client, server)
    };
    let mut request = Request::new(named("ada"));
    request.set_timeout(Duration::from_secs(60));
    client.say_hello(request).await.unwrap();
    let told = server.calls()[0].get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
    let (number, unit) = told.split_at(told.len() - 1);
    let nanos = number.parse::<u64>().unwrap()
        * match unit {
            "S" => 1_000_000_000,
            "m" => 1_000_000,
            "u" => 1_000,
            "n" => 1,
            other => panic!("{other}"),
        };
    assert!(nanos <= 60_000_000_000 && nanos > 30_000_000_000, "{told}");

    let mut request = Request::new(named("nobody"));
    request.set_timeout(Duration::from_millis(100));
    let status = client.say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    server.caller_gone().await;

    let mut request = Request::new(named("nobody"));
    request.set_timeout(Duration::from_millis(200));
    let mut stream = client.watch(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().message, "first");
    assert_eq!(stream.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    server.caller_gone().await;
    mesh.end().await;
}

#[tokio::test]
async fn a_call_that_is_let_go_ends_at_the_server() {
    let (mesh, client, mut server) = given().await;
    let mut caller = client.clone();
    let call = tokio::spawn(async move { caller.say_hello(named("nobody")).await });
    while server.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    call.abort();
    server.caller_gone().await;

    let mut stream = client.clone().watch(named("nobody")).await.unwrap().into_inner();
    stream.message().await.unwrap();
    drop(stream);
    server.caller_gone().await;
    assert_eq!(client.clone().say_hello(named("ada")).await.unwrap().into_inner().message, "hello ada");
    assert_eq!(server.accepts(), 1, "the connection is none the worse");
    mesh.end().await;
}

#[tokio::test]
async fn a_retry_is_the_meshs_business() {
    let server =
        Server::scripted(|number, _| if number < 3 { Err(Status::unavailable("not yet")) } else { Ok(()) }).await;
    let retry = "retry: { on: [unavailable], num_retries: 3, backoff: { base: 1ms } }";
    let mesh = mesh_to(server.address, retry, "").await;
    let mut client = GreeterClient::new(mesh.channel("greeter").unwrap());
    assert_eq!(client.say_hello(named("ada")).await.unwrap().into_inner().message, "hello ada");
    let told: Vec<_> = server
        .calls()
        .iter()
        .map(|call| call.get("grpc-previous-rpc-attempts").map(|value| value.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(told, [None, Some("1".to_owned()), Some("2".to_owned())]);
    mesh.end().await;
}

#[tokio::test]
async fn a_server_without_the_service_is_unimplemented() {
    let server = Server::without_services().await;
    let mesh = mesh_to(server.address, "", "").await;
    let mut client = GreeterClient::new(mesh.channel("greeter").unwrap());
    let status = client.say_hello(named("ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    mesh.end().await;
}

/// The error of the mesh is in the status: its code, its whole text and, as the source, itself.
fn assert_ours(status: &Status, code: Code, kind: ErrorKind, words: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "{word:?} is missing: {}", status.message());
    }
    let mut source = status.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<mesh_tower::Error>() {
            assert_eq!(error.kind(), kind);
            return;
        }
        source = cause.source();
    }
    panic!("no mesh_tower::Error behind {status:?}");
}

#[tokio::test]
async fn failures_of_the_mesh_are_statuses_with_the_right_code() {
    let gone = Server::start().await.address;
    let route = "matches: [{ path: { prefix: /greeter.v1.Greeter } }]";
    let place = "backend v1 of service greeter";
    for (route, backend, code, kind, words) in [
        ("", "", Code::Unavailable, ErrorKind::NoHealthyEndpoint, &[place, "refused", "127.0.0.1"][..]),
        ("", "protocol: http1", Code::Internal, ErrorKind::Protocol, &[place, "gRPC needs HTTP/2"]),
        (route, "", Code::Unavailable, ErrorKind::NoHealthyEndpoint, &[place]),
        (
            "matches: [{ path: { prefix: /other } }]",
            "",
            Code::Unavailable,
            ErrorKind::NoRoute,
            &["no route of service greeter", "POST /greeter.v1.Greeter/"],
        ),
    ] {
        let mesh = mesh_to(gone, route, backend).await;
        let mut client = GreeterClient::new(mesh.channel("greeter").unwrap());
        assert_ours(&client.say_hello(named("ada")).await.unwrap_err(), code, kind, words);
        let (_sender, stream) = requests();
        assert_ours(&client.chat(stream).await.unwrap_err(), code, kind, words);
        mesh.end().await;
    }
}

/// RL-06: what is small on the wire and large in memory stops at the limit of a message.
#[tokio::test]
async fn rl_06_a_compressed_bomb_is_defused_by_the_limit_of_a_message() {
    let (mesh, client, server) = given().await;
    let mut client = client.accept_compressed(CompressionEncoding::Gzip);
    let status = client.say_hello(named("bomb")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("4194304 bytes"), "{status:?}");
    // Whoever raises the limit gets it, and the connection has not suffered.
    let mut client = client.max_decoding_message_size(BOMB + 1024);
    assert_eq!(client.say_hello(named("bomb")).await.unwrap().into_inner().message.len(), BOMB);
    assert_eq!(server.accepts(), 1);
    mesh.end().await;
}

#[tokio::test]
async fn an_unknown_service_is_told_when_the_channel_is_made() {
    let (mesh, _client, _server) = given().await;
    let error = mesh.channel("greter").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownService);
    assert!(error.to_string().contains("did you mean `greeter`?"), "{error}");
    let status = mesh_tonic::to_status(error);
    assert_ours(&status, Code::Unavailable, ErrorKind::UnknownService, &["greter"]);
    assert_eq!(mesh.channel("http://greeter/path").unwrap_err().kind(), ErrorKind::InvalidRequest);
    for name in ["greeter", "http://greeter/", "greeter.default.svc", "greeter.default.svc:50051", "GREETER"] {
        let mut client = GreeterClient::new(mesh.channel(name).unwrap());
        client.say_hello(named("ada")).await.unwrap();
    }
    mesh.end().await;
}

#[tokio::test]
async fn a_server_of_http1_alone_is_told_as_such() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 24]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let mesh = mesh_to(address, "", "").await;
    let mut client = GreeterClient::new(mesh.channel("greeter").unwrap());
    let status = client.say_hello(named("ada")).await.unwrap_err();
    let words = &["backend v1 of service greeter", "is it an HTTP/2 server?"];
    assert_ours(&status, Code::Unavailable, ErrorKind::NoHealthyEndpoint, words);
    mesh.end().await;
    server.abort();
}

#[tokio::test]
async fn after_a_shutdown_calls_are_unavailable_and_those_under_way_may_end() {
    let (mesh, mut client, _server) = given().await;
    let (sender, stream) = requests();
    let mut chat = client.clone().chat(stream).await.unwrap().into_inner();
    let ending = tokio::spawn({
        let mesh = Mesh::clone(&mesh);
        async move { mesh.shutdown().await }
    });
    tokio::task::yield_now().await;
    sender.try_send(named("last")).unwrap();
    drop(sender);
    assert_eq!(chat.message().await.unwrap().unwrap().message, "re: last");
    assert!(chat.message().await.unwrap().is_none());
    ending.await.unwrap();
    let status = client.say_hello(named("ada")).await.unwrap_err();
    assert_ours(&status, Code::Unavailable, ErrorKind::Shutdown, &["shut down"]);
    mesh.end().await;
}

/// One pool for all clients of a mesh.
#[tokio::test]
async fn grpc_and_http_share_a_connection() {
    let (mesh, mut client, server) = {
        let server = Server::start().await;
        let mesh = mesh_to(server.address, "", "protocol: http2").await;
        let client = GreeterClient::new(mesh.channel("greeter").unwrap());
        (mesh, client, server)
    };
    for _ in 0..3 {
        client.say_hello(named("ada")).await.unwrap();
        let response = mesh.http_client().get("http://greeter/nothing/here").await.unwrap();
        assert_eq!(response.status(), 200, "a gRPC server answers in gRPC: {:?}", response.headers());
        assert_eq!(response.headers()["grpc-status"], "12");
    }
    assert_eq!(server.accepts(), 1);
    mesh.end().await;
}

/// gRFC A55: the cookie is metadata like any other.
#[tokio::test]
async fn a_session_comes_back_to_its_server() {
    let servers = [Server::start().await, Server::start().await, Server::start().await];
    let config = ServiceConfig::new("greeter", servers.iter().map(|server| server.address))
        .route("session_affinity: { cookie: { name: sid } }")
        .backend("load_balancer: random");
    let mesh = config.mesh().await;
    let client = GreeterClient::new(mesh.channel("greeter").unwrap());
    let first = client.clone().say_hello(named("ada")).await.unwrap();
    let set = first.metadata().get("set-cookie").unwrap().to_str().unwrap();
    let cookie: MetadataValue<_> = set.split(';').next().unwrap().parse().unwrap();
    for _ in 0..15 {
        let mut request = Request::new(named("ada"));
        request.metadata_mut().insert("cookie", cookie.clone());
        let response = client.clone().say_hello(request).await.unwrap();
        assert!(!response.metadata().contains_key("set-cookie"), "it is known");
    }
    let served: Vec<_> = servers.iter().map(|server| server.calls().len()).filter(|calls| *calls > 0).collect();
    assert_eq!(served, [16]);
    mesh.end().await;
}
