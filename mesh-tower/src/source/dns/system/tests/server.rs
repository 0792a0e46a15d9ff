//! A name server on the loopback interface, over UDP and TCP.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// What becomes of the queries for a name.
#[derive(Default)]
pub(super) struct Entry {
    records: Vec<Record>,
    additionals: Vec<Record>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fault {
    ServerFailure,
    /// No answer at all.
    Silence,
    /// Over UDP an empty answer that says that there is more.
    Truncation,
}

#[derive(Default)]
pub(super) struct Zone(HashMap<Name, Entry>);

pub(super) fn name(text: &str) -> Name {
    Name::from_str_relaxed(text).unwrap()
}

impl Zone {
    fn entry(&mut self, text: &str) -> &mut Entry {
        self.0.entry(name(text)).or_default()
    }

    fn with(mut self, text: &str, ttl: u32, data: RData) -> Self {
        self.entry(text).records.push(Record::from_rdata(name(text), ttl, data));
        self
    }

    pub(super) fn address(self, text: &str, ttl: u32, ip: &str) -> Self {
        self.with(text, ttl, ip.parse::<IpAddr>().unwrap().into())
    }

    pub(super) fn alias(self, text: &str, ttl: u32, target: &str) -> Self {
        self.with(text, ttl, RData::CNAME(CNAME(name(target))))
    }

    pub(super) fn service(self, text: &str, ttl: u32, priority: u16, port: u16, target: &str) -> Self {
        self.with(text, ttl, RData::SRV(SRV::new(priority, 0, port, name(target))))
    }

    /// Sends the address of `target` along with the answers for `text`.
    pub(super) fn enclose(mut self, text: &str, target: &str, ttl: u32, ip: &str) -> Self {
        let record = Record::from_rdata(name(target), ttl, ip.parse::<IpAddr>().unwrap().into());
        self.entry(text).additionals.push(record);
        self
    }

    pub(super) fn fault(mut self, text: &str, fault: Fault) -> Self {
        self.entry(text).fault = Some(fault);
        self
    }

    /// A name that exists and has no records.
    pub(super) fn empty(mut self, text: &str) -> Self {
        self.entry(text);
        self
    }

    fn answer(&self, query: &Query, request: &Message, udp: bool) -> Option<Message> {
        let mut response = Message::response(request.id, request.op_code);
        response.add_query(query.clone());
        response.metadata.recursion_available = true;
        let Some(entry) = self.0.get(query.name()) else {
            response.metadata.response_code = ResponseCode::NXDomain;
            return Some(response);
        };
        match entry.fault {
            Some(Fault::Silence) => return None,
            Some(Fault::ServerFailure) => response.metadata.response_code = ResponseCode::ServFail,
            Some(Fault::Truncation) if udp => response.metadata.truncation = true,
            _ => {
                self.follow(entry, query.query_type(), &mut response);
                response.add_additionals(entry.additionals.iter().cloned());
            }
        }
        Some(response)
    }

    /// As a recursive server does: aliases first, then what they lead to.
    fn follow(&self, entry: &Entry, wanted: RecordType, response: &mut Message) {
        for record in &entry.records {
            if record.record_type() == wanted {
                response.add_answer(record.clone());
            } else if let RData::CNAME(CNAME(target)) = &record.data {
                response.add_answer(record.clone());
                if let Some(entry) = self.0.get(target) {
                    self.follow(entry, wanted, response);
                }
            }
        }
    }
}

/// Ends when dropped.
pub(super) struct Server {
    address: SocketAddr,
    queries: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(zone: Zone) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same port may be taken for UDP.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let queries = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&queries);
        let zone = Arc::new(zone);
        let respond = move |bytes: &[u8], udp: bool| {
            let request = Message::from_vec(bytes).unwrap();
            let query = request.queries.first().unwrap();
            let transport = if udp { "UDP" } else { "TCP" };
            log.lock().unwrap().push(format!("{} {} {transport}", query.name(), query.query_type()));
            zone.answer(query, &request, udp).map(|response| response.to_vec().unwrap())
        };
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let respond = respond.clone();
            async move {
                let mut buffer = [0; 4096];
                loop {
                    let (len, peer) = udp.recv_from(&mut buffer).await.unwrap();
                    if let Some(response) = respond(&buffer[..len], true) {
                        udp.send_to(&response, peer).await.unwrap();
                    }
                }
            }
        });
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let respond = respond.clone();
                connections.spawn(async move {
                    while let Ok(len) = stream.read_u16().await {
                        let mut request = vec![0; len.into()];
                        stream.read_exact(&mut request).await.unwrap();
                        if let Some(response) = respond(&request, false) {
                            stream.write_u16(response.len().try_into().unwrap()).await.unwrap();
                            stream.write_all(&response).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { address, queries, _tasks: tasks }
    }

    /// The queries so far, as in `a.example. AAAA UDP`, in the order of the alphabet and each once: over UDP a query is
    /// sent again if the answer takes long.
    pub(super) fn queries(&self) -> Vec<String> {
        let mut queries = self.queries.lock().unwrap().clone();
        queries.sort_unstable();
        queries.dedup();
        queries
    }

    /// How many queries for `name` there were.
    pub(super) fn asked(&self, name: &str) -> usize {
        self.queries.lock().unwrap().iter().filter(|query| query.starts_with(name)).count()
    }

    /// A configuration that asks this server.
    pub(super) fn configuration(&self, search: &[&str]) -> ResolverConfig {
        let connection = |protocol| {
            let mut connection = ConnectionConfig::new(protocol);
            connection.port = self.address.port();
            connection
        };
        let connections = vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)];
        let server = NameServerConfig::new(self.address.ip(), true, connections);
        ResolverConfig::from_parts(None, search.iter().map(|domain| name(domain)).collect(), vec![server])
    }
}
