//! RL-02, RL-04, RL-05, CL-13: answers, and frames that answer nothing, made to exhaust the client. The request fails, what is taken in is bounded, the endpoint
//! recovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh_tower::core::model::RoutePolicy;
use mesh_tower::{Error, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use mesh_tower::testing::{MemoryNetwork, Seen, TestBackend, watched};

use crate::support::{Peer, Server, URI, Wire, backend, config, config_with, finish, get, kind, mesh, mesh_over};

/// What the first connection does once it has read a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flood {
    /// A header block of 10 MiB, in the end.
    Headers,
    /// CONTINUATION frames without an end, each as large as it may be.
    Continuations,
    /// CONTINUATION frames without an end and without a byte.
    EmptyContinuations,
    /// One header of 4 KiB put into HPACK's table, and 4000 references to it: 16 MiB out of 8 KiB.
    References,
    /// Trailers of 10 MiB.
    Trailers,
}

const FRAME: usize = 16_384;
const END_HEADERS: u8 = 4;
/// What no client may take in before it has enough.
const BOUND: usize = 8 * 1024 * 1024;

/// A literal header field without indexing, whose name and value are `len` bytes each (HPACK 6.2.2).
fn literal(len: u8) -> Vec<u8> {
    assert!(len < 127);
    let mut field = vec![0, len];
    field.extend(vec![b'a'; usize::from(len)]);
    field.push(len);
    field.extend(vec![b'v'; usize::from(len)]);
    field
}

/// Header fields to the length of one frame.
fn fields() -> Vec<u8> {
    let field = literal(100);
    field.repeat(FRAME / field.len())
}

/// Sends `flood` until the client has enough; returns how many bytes it took.
async fn pour(wire: &mut Wire<TcpStream>, stream: u32, flood: Flood) -> usize {
    let mut sent = 0;
    let status = [0x88];
    match flood {
        Flood::Headers | Flood::Trailers | Flood::Continuations | Flood::EmptyContinuations => {
            if flood == Flood::Trailers {
                wire.head(stream).await;
                wire.send(kind::HEADERS, 1, stream, &literal(3)).await;
            } else {
                wire.send(kind::HEADERS, 0, stream, &status).await;
            }
            let piece = if flood == Flood::EmptyContinuations { Vec::new() } else { fields() };
            let bounded = matches!(flood, Flood::Headers | Flood::Trailers);
            while !bounded || sent < 10 * 1024 * 1024 {
                if sent > BOUND * 4 || !wire.send(kind::CONTINUATION, 0, stream, &piece).await {
                    break;
                }
                sent += piece.len() + 9;
            }
            wire.send(kind::CONTINUATION, END_HEADERS, stream, &[]).await;
        }
        Flood::References => {
            // A literal with incremental indexing: it becomes entry 62.
            let mut block = vec![0x88, 0x40, 1, b'x', 0x7f, 0x80, 0x1e];
            let length = 0x7f + (0x1e << 7);
            block.extend(vec![b'v'; length]);
            block.extend(vec![0x80 | 62; 4000]);
            wire.send(kind::HEADERS, END_HEADERS | 1, stream, &block).await;
            sent = block.len();
        }
    }
    sent
}

async fn flooded(flood: Flood) -> (Result<bytes::Bytes, Error>, usize) {
    let poured = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&poured);
    let server = Server::start(move |number, stream| {
        let count = Arc::clone(&count);
        async move {
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            if number > 0 {
                return wire.echo().await;
            }
            let Some((stream, _)) = wire.request().await else { return };
            count.store(pour(&mut wire, stream, flood).await, Ordering::SeqCst);
            // The connection may have survived: then it is as good as any.
            wire.echo().await;
        }
    })
    .await;
    let (mesh, _) = mesh(config(&[server.address])).await;
    let answer = get(&mesh).await;
    for _ in 0..5 {
        assert_eq!(get(&mesh).await.unwrap(), "", "{flood:?}: the endpoint does not recover");
    }
    finish(mesh).await;
    server.deserted().await;
    (answer, poured.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rl_04_floods_of_headers_are_cut_off() {
    watched(async {
        for flood in
            [Flood::Headers, Flood::Continuations, Flood::EmptyContinuations, Flood::References, Flood::Trailers]
        {
            let (answer, taken) = flooded(flood).await;
            let error = answer.unwrap_err();
            assert!([ErrorKind::Protocol, ErrorKind::Reset].contains(&error.kind()), "{flood:?}: {error:?}");
            assert!(taken < BOUND, "{flood:?}: {taken} bytes were taken");
        }
    })
    .await;
}

/// What goes on for ever without being too large.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Drip {
    /// `103 Early Hints`.
    Informational,
    /// DATA frames without a byte.
    EmptyData,
}

/// RL-05: each single frame is sound, so at the latest the deadline ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rl_05_answers_without_an_end_end_by_the_deadline() {
    watched(async {
        for drip in [Drip::Informational, Drip::EmptyData] {
            let server = Server::start(move |number, stream| async move {
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                let Some((stream, _)) = wire.request().await else { return };
                // `:status: 103`, without indexing.
                let hint = [0x08, 3, b'1', b'0', b'3'];
                if number > 0 {
                    // A few of them are part of an answer.
                    for _ in 0..3 {
                        wire.send(kind::HEADERS, END_HEADERS, stream, &hint).await;
                    }
                    wire.head(stream).await;
                    for _ in 0..3 {
                        wire.data(stream, &[], false).await;
                    }
                    wire.data(stream, b"sound", true).await;
                    return wire.echo().await;
                }
                if drip == Drip::Informational {
                    while wire.send(kind::HEADERS, END_HEADERS, stream, &hint).await {}
                } else {
                    wire.head(stream).await;
                    while wire.data(stream, &[], false).await {}
                }
            })
            .await;
            let mut policy = RoutePolicy::default();
            policy.timeout = Some(Duration::from_millis(500));
            let (first, events) = mesh(config_with(backend("b", &[server.address]), policy)).await;
            let error = get(&first).await.unwrap_err();
            let kinds = [ErrorKind::DeadlineExceeded, ErrorKind::Protocol, ErrorKind::Reset];
            assert!(kinds.contains(&error.kind()), "{drip:?}: {error:?}");
            assert_eq!(events.count(|seen| matches!(seen, Seen::Request { .. })), 1);
            finish(first).await;
            let (second, _) = mesh(config(&[server.address])).await;
            assert_eq!(get(&second).await.unwrap(), "sound", "{drip:?}");
            finish(second).await;
        }
    })
    .await;
}

/// RFC 9113 6.9.1: a peer that sends more than it may, for a body that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_beyond_the_window_ends_its_stream() {
    const FLOW_CONTROL_ERROR: u32 = 3;
    // More than the window of a stream, less than that of the connection.
    const PIECES: usize = 4 * 1024 * 1024 / FRAME;
    watched(async {
        let (reset, mut resets) = tokio::sync::mpsc::channel(1);
        let server = Server::start(move |_, stream| {
            let reset = reset.clone();
            async move {
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                let Some((stream, _)) = wire.request().await else { return };
                wire.head(stream).await;
                for _ in 0..PIECES {
                    wire.data(stream, &[0; FRAME], false).await;
                }
                while let Some(frame) = wire.next().await {
                    if let Some(reason) = frame.reset_reason() {
                        reset.send(reason).await.unwrap();
                        break;
                    }
                }
                wire.echo().await;
            }
        })
        .await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        let body = mesh.http_client().get(URI).await.unwrap().into_body();
        assert_eq!(resets.recv().await.unwrap(), FLOW_CONTROL_ERROR);
        assert_eq!(body.bytes().await.unwrap_err().kind(), ErrorKind::Protocol);
        // The connection goes on.
        assert_eq!(get(&mesh).await.unwrap(), "");
        assert_eq!(server.accepted(), 1);
        finish(mesh).await;
    })
    .await;
}

/// What a peer may send at any time, each of it sound.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Control {
    Ping,
    /// SETTINGS without a setting.
    Settings,
    /// SETTINGS that turn the window of every stream up and down.
    Windows,
    Priority,
    /// The connection's window grows by a byte.
    WindowUpdate,
    /// Of a type that nobody knows.
    Unknown,
}

impl Control {
    const ALL: [Self; 6] =
        [Self::Ping, Self::Settings, Self::Windows, Self::Priority, Self::WindowUpdate, Self::Unknown];

    /// The bytes of each, of those that are to be acknowledged.
    fn acknowledged(self) -> Option<usize> {
        match self {
            Self::Ping => Some(17),
            Self::Settings => Some(9),
            Self::Windows => Some(15),
            Self::Priority | Self::WindowUpdate | Self::Unknown => None,
        }
    }

    async fn send(self, wire: &mut Wire<impl AsyncRead + AsyncWrite + Unpin>, number: u32) -> bool {
        const INITIAL_WINDOW_SIZE: u16 = 4;
        match self {
            Self::Ping => wire.send(kind::PING, 0, 0, &u64::from(number).to_be_bytes()).await,
            Self::Settings => wire.send(kind::SETTINGS, 0, 0, &[]).await,
            Self::Windows => {
                let size = 65_535 + number % 2;
                let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &size.to_be_bytes()[..]].concat();
                wire.send(kind::SETTINGS, 0, 0, &setting).await
            }
            Self::Priority => wire.send(2, 0, 1 + 2 * number, &[0, 0, 0, 0, 16]).await,
            Self::WindowUpdate => wire.send(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).await,
            Self::Unknown => wire.send(0xf0, 0, 0, b"nonsense").await,
        }
    }
}

/// CL-13: a peer that wants acknowledgements and takes none is read no further: what it costs is bounded, and the
/// request on it ends with its deadline.
#[tokio::test(start_paused = true)]
async fn cl_13_who_takes_no_acknowledgement_is_not_read() {
    // What fits into the pipe in both directions, with what h2 keeps, and as much again.
    const BOUND: usize = 4 * 64 * 1024;
    watched(async {
        for control in Control::ALL {
            let Some(size) = control.acknowledged() else { continue };
            let network = MemoryNetwork::new();
            let (told, mut taken) = mpsc::channel(1);
            let peer = Peer::start(&network, move |_, stream| {
                let told = told.clone();
                async move {
                    let mut wire = Wire::greet(stream, None).await.unwrap();
                    wire.request().await.unwrap();
                    let mut bytes = 0;
                    // The clock goes on only once the pipe is full.
                    while tokio::time::timeout(Duration::from_secs(1), control.send(&mut wire, 0)).await == Ok(true) {
                        bytes += size;
                        assert!(bytes < 10 * BOUND, "{control:?}: nothing holds it up");
                    }
                    told.send(bytes).await.unwrap();
                    while wire.next().await.is_some() {}
                }
            });
            let mut policy = RoutePolicy::default();
            policy.timeout = Some(Duration::from_secs(5));
            let config = config_with(backend("b", &[peer.address]), policy);
            let (mesh, _, _configs) = mesh_over(&network, config).await;
            assert_eq!(get(&mesh).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
            let taken = taken.recv().await.unwrap();
            assert!(taken < BOUND, "{control:?}: {taken} bytes were taken");
            finish(mesh).await;
        }
    })
    .await;
}

/// CL-13: a flood takes no more than its turn; requests go on, on this connection and beside it.
#[tokio::test]
async fn cl_13_floods_of_control_frames_leave_the_others_their_turn() {
    const FRAMES: u32 = 20_000;
    watched(async {
        for control in Control::ALL {
            let (flooding, mut floods) = watch::channel(0_u32);
            let server = Server::start(move |_, stream| {
                let flooding = flooding.clone();
                async move {
                    let Some(mut wire) = Wire::greet(stream, None).await else { return };
                    let Some((stream, _)) = wire.request().await else { return };
                    let (mut read, write) = tokio::io::split(wire.io);
                    let mut wire = Wire { io: tokio::io::join(tokio::io::empty(), write) };
                    let reads = async { while read.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
                    let writes = async {
                        for number in 0..FRAMES {
                            if !control.send(&mut wire, number).await {
                                break;
                            }
                            flooding.send_replace(number + 1);
                        }
                        wire.answer(stream, b"").await;
                    };
                    tokio::join!(reads, writes);
                }
            })
            .await;
            let neighbour = TestBackend::named("neighbour").start();
            let (flooded, _) = mesh(config(&[server.address])).await;
            let (beside, _) = mesh(config(&[neighbour.address()])).await;
            let waiting = get(&flooded);
            let others = async {
                // One request at least for each tenth of the flood.
                for tenth in 1..=10 {
                    floods.wait_for(|sent| *sent >= FRAMES / 10 * (tenth - 1)).await.unwrap();
                    assert_eq!(get(&beside).await.unwrap(), "neighbour");
                    let sent = *floods.borrow();
                    if tenth == 1 {
                        assert!(sent < FRAMES, "{control:?}: the flood was over before anybody else had a turn");
                    }
                }
            };
            let (answer, ()) = tokio::join!(waiting, others);
            // It is answered behind the flood, or its connection was given up for it.
            if let Err(error) = answer {
                assert!([ErrorKind::Reset, ErrorKind::Protocol].contains(&error.kind()), "{control:?}: {error:?}");
            }
            finish(flooded).await;
            finish(beside).await;
        }
    })
    .await;
}
